/** Pins of cached prefixes: options and their defaults. */
import { invalidArgument, QuartermasterError, requireInteger } from "./errors.js";

/** A pin; dead once it has ended. */
export type PinId = number & { readonly brand?: "PinId" };

/** Room for pins. */
export interface PinRoom {
  /** Pins at a time, 1 to 2^20. 40 bytes each. Default 1024. */
  capacity?: number;
  /** Share of the pool's blocks that hard pins may keep, 0 to below 1. Default 0.25. */
  share?: number;
}

export interface PinOptions {
  /**
   * Whether the blocks stay whatever happens. Otherwise they stay until room runs out: then the soft pin of the lowest
   * priority gives way, of equals the oldest. Default false.
   */
  hard?: boolean;
  /** Of a soft pin, 0 to 100. Default 35. */
  priority?: number;
  /** Microseconds on the host's clock at which the pin ends (`advance`, a scheduler's steps). Default: never. */
  untilUs?: number;
}

/** Pin of a request's prompt: for how long from its first token on. */
export type RequestPin = Omit<PinOptions, "untilUs"> & {
  /** Microseconds, >= 0. Default: for ever. */
  forUs?: number;
};

const DEFAULT_PRIORITY = 35;

export function pinRoom(room: PinRoom | true | undefined): Required<PinRoom> | undefined {
  if (room === undefined) return undefined;
  const options = room === true ? {} : room;
  if (typeof options !== "object" || options === null)
    throw invalidArgument("pins", room, "true or an object");
  const share = options.share ?? 0.25;
  if (typeof share !== "number" || !(share >= 0 && share < 1))
    throw invalidArgument("pins.share", share, "a number from 0 to below 1");
  return { capacity: requireInteger("pins.capacity", options.capacity ?? 1024, 1, 2 ** 20), share };
}

/** Checks a pin's options and fills in defaults; `time`: the name of the one that is a time. */
export function pinShape(
  options: PinOptions | RequestPin,
  time: "untilUs" | "forUs",
): { hard: number; priority: number; us: number } {
  if (typeof options !== "object" || options === null) throw invalidArgument("pin", options, "an object");
  const us = (options as Record<string, unknown>)[time] ?? Infinity;
  if (typeof us !== "number" || !(us >= 0))
    throw new QuartermasterError("INVALID_TIME", `pin.${time} is ${String(us)}; allowed: a number >= 0`, {
      argument: `pin.${time}`,
      value: us,
      range: "a number >= 0",
    });
  const priority = requireInteger("pin.priority", options.priority ?? DEFAULT_PRIORITY, 0, 100);
  return { hard: options.hard ? 1 : 0, priority, us };
}
