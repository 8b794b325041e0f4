/** Operation records: what a batch of different operations is written down as. */

/** What an operation record asks for. */
export const enum Operation {
  Get = 0,
  Put = 1,
  Delete = 2,
  FetchAdd = 3,
  CompareExchange = 4,
  Scan = 5,
}

/** One operation of `indexApply`, 32 bytes. */

@unmanaged
export class OperationRecord {
  operation: u32;
  /** Result as of the single call: 1 or 0, a refusal, or the entries of a scan. */
  status: i32;
  key: u64;
  /** In: value, summand or most entries. Out: value read (Get), value before (FetchAdd). */
  value: u64;
  /** Expected value of CompareExchange. */
  expected: u64;
}

// @ts-ignore: decorator
@inline export const OPERATION_BYTES: usize = 32;
