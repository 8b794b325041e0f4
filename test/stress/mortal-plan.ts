/** What a thread that is going to be terminated is told to do. */
export type Role = "reader" | "writer";

export type Order =
  /** Some calls, then idle. */
  | { readonly what: "work"; readonly role: Role }
  /** Calls without end; counts them in `calls`. */
  | { readonly what: "work on"; readonly role: Role; readonly calls: Int32Array }
  /** One call; if it has to wait for a lock, it never comes back. */
  | { readonly what: "get stuck"; readonly role: Role }
  | { readonly what: "detach"; readonly worker: number };

export const KEYS = 60;
