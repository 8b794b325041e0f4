/**
 * The module's exported functions, typed by hand; a test compares them with the compiler's own declarations.
 * Pointers and counts are numbers; pointers above 2^31 come back negative and are read with `>>> 0`.
 *
 * One file, longer than others: the list is compared as a whole.
 */

export interface MemoryExports {
  abiVersion(): number;
  coreCreate(seed: bigint): number;
  coreAdopt(): number;
  coreExtend(): number;
  coreTop(): number;
  coreMark(): void;
  coreRewind(): void;
  coreCost(bytes: number): number;
  coreRegions(): number;
  coreRegionKind(index: number): number;
  coreRegionPointer(index: number): number;
  coreRegionBytes(index: number): number;
  coreValidate(): number;
  scratchCreate(bytes: number): number;
  coreAttach(strongOrder: number): number;
  coreDetach(worker: number): number;
  corePoison(): void;
  corePoisoned(): number;
}

export interface OrderedIndexExports {
  orderedIndexDigitBits(nodeBytes: number, valueBytes: number): number;
  orderedIndexNodesFor(entries: number, nodeBytes: number, valueBytes: number, digitBits: number): number;
  orderedIndexBytes(
    nodes: number,
    nodeBytes: number,
    valueBytes: number,
    digitBits: number,
    mode: number,
  ): number;
  orderedIndexCreate(
    nodes: number,
    nodeBytes: number,
    valueBytes: number,
    digitBits: number,
    mode: number,
  ): number;
  orderedIndexSet(
    index: number,
    keyLow: number,
    keyHigh: number,
    valueLow: number,
    valueHigh: number,
  ): number;
  orderedIndexSet64(index: number, key: bigint, value: bigint): number;
  orderedIndexFind(index: number, keyLow: number, keyHigh: number): number;
  orderedIndexFind64(index: number, key: bigint): number;
  orderedIndexDelete(index: number, keyLow: number, keyHigh: number): number;
  orderedIndexDelete64(index: number, key: bigint): number;
  orderedIndexCompareExchange(
    index: number,
    keyLow: number,
    keyHigh: number,
    expectedLow: number,
    expectedHigh: number,
    valueLow: number,
    valueHigh: number,
  ): number;
  orderedIndexCompareExchange64(index: number, key: bigint, expected: bigint, value: bigint): number;
  orderedIndexFetchAdd(
    index: number,
    keyLow: number,
    keyHigh: number,
    deltaLow: number,
    deltaHigh: number,
  ): number;
  orderedIndexFetchAdd64(index: number, key: bigint, delta: bigint): number;
  orderedIndexGetMany(index: number, keys: number, count: number, values: number, found: number): number;
  orderedIndexSetMany(index: number, keys: number, values: number, count: number): number;
  orderedIndexDeleteMany(index: number, keys: number, count: number): number;
  orderedIndexApply(
    index: number,
    records: number,
    count: number,
    outKeys: number,
    outValues: number,
    outCapacity: number,
  ): number;
  orderedIndexRange(
    index: number,
    lowest: bigint,
    highest: bigint,
    limit: number,
    keys: number,
    values: number,
  ): number;
  orderedIndexSize(index: number): number;
  orderedIndexClear(index: number): void;
  orderedIndexFreeNodes(index: number): number;
  orderedIndexNodes(index: number): number;
  orderedIndexNodeBytes(index: number): number;
  orderedIndexLeafCapacity(index: number): number;
  orderedIndexValueBytes(index: number): number;
  orderedIndexLevels(index: number): number;
  orderedIndexMode(index: number): number;
  orderedIndexRetries(index: number): number;
  orderedIndexFallbacks(index: number): number;
  orderedIndexInside(index: number, worker: number): number;
  orderedIndexValidate(index: number): number;
}

export interface PagingExports {
  kvCacheBytes(
    blocks: number,
    blockSize: number,
    maxSequences: number,
    maxSequenceTokens: number,
    sharedProbe: number,
  ): number;
  kvCacheCreate(
    blocks: number,
    blockSize: number,
    maxSequences: number,
    maxSequenceTokens: number,
    prefixCache: number,
    keyBits: number,
    sharedProbe: number,
  ): number;
  kvOrderBytes(blocks: number, kind: number, history: number): number;
  kvOrderCreate(kv: number, kind: number, history: number, baseCost: number, depthCost: number): number;
  kvOrderKind(kv: number): number;
  kvAdvise(kv: number, sequence: number, discard: number): number;
  kvPrioritize(
    kv: number,
    sequence: number,
    priority: number,
    priorityUntilUs: number,
    liveUntilUs: number,
  ): number;
  kvAdvance(kv: number, nowUs: number): number;
  kvNextDeadlineUs(kv: number): number;
  kvRetain(kv: number, blocks: number): number;
  kvScore(kv: number, sequence: number, from: number, count: number, scores: number): number;
  kvOpen(kv: number, namespace: number, count: number, flags: number): number;
  kvMatch(kv: number, namespace: number, count: number): number;
  kvCacheProbeBytes(): number;
  kvCacheProbeIndex(kv: number): number;
  kvCacheProbeStart(kv: number, namespace: number, work: number): number;
  kvCacheProbe(kv: number, tokens: number, blocks: number, work: number): number;
  kvReserve(kv: number, sequence: number, count: number): number;
  kvAppend(kv: number, sequence: number, count: number): number;
  kvAppendLoaded(kv: number, sequence: number, count: number, whole: number): number;
  kvTruncate(kv: number, sequence: number, length: number): number;
  kvFork(kv: number, sequence: number): number;
  kvClose(kv: number, sequence: number): number;
  kvSettleCopies(kv: number): void;
  kvRevertCopies(kv: number): void;
  kvForget(kv: number): number;
  kvLength(kv: number, sequence: number): number;
  kvSlots(kv: number, sequence: number): number;
  kvTableCount(kv: number, sequence: number): number;
  kvTable(kv: number, sequence: number): number;
  kvInput(kv: number): number;
  kvCopies(kv: number): number;
  kvCopyCount(kv: number): number;
  kvReferences(kv: number, block: number): number;
  kvAvailable(kv: number): number;
  kvValidateCache(kv: number): number;
}

export interface IsolationExports {
  kvChildrenBytes(blocks: number, ordered: number): number;
  kvChildrenCreate(kv: number, threshold: number): number;
  kvCopiedTokens(kv: number): number;
  kvAccountsBytes(blocks: number, tenants: number): number;
  kvAccountsCreate(kv: number, tenants: number): number;
  kvTenants(kv: number): number;
  kvSetQuota(kv: number, tenant: number, floor: number, watermark: number, ceiling: number): number;
  kvAccount(kv: number, tenant: number): number;
  kvTenantAvailable(kv: number, tenant: number): number;
  kvOpenAs(
    kv: number,
    namespace: number,
    count: number,
    flags: number,
    tenant: number,
    marks: number,
  ): number;
  kvMatchAs(kv: number, namespace: number, count: number, marks: number): number;
  kvMarksBytes(blocks: number, capacity: number): number;
  kvMarksCreate(kv: number, capacity: number): number;
  kvMarksInput(kv: number): number;
  kvMarks(kv: number, count: number): number;
  kvMarksRelease(kv: number, marks: number): number;
  kvMarksRead(kv: number, marks: number): number;
  kvRunsBytes(blocks: number, maxSequences: number): number;
  kvRunsCreate(kv: number, reserve: number): number;
  kvRuns(kv: number): number;
  kvPinsBytes(blocks: number, capacity: number): number;
  kvPinsCreate(kv: number, capacity: number, limit: number): number;
  kvPin(kv: number, sequence: number, hard: number, priority: number, untilUs: number): number;
  kvUnpin(kv: number, pin: number): number;
  kvPinFigure(kv: number, figure: number): number;
}

export interface GroupExports {
  kvGroupsBytes(
    blocks: number,
    blockSize: number,
    maxSequences: number,
    maxSequenceTokens: number,
    specs: number,
    count: number,
  ): number;
  kvGroupsCreate(kv: number, specs: number, count: number): number;
  kvGroups(kv: number): number;
  kvGroupTableCount(kv: number, sequence: number, group: number): number;
  kvGroupTable(kv: number, sequence: number, group: number): number;
}

export interface PageSetExports {
  pageSetBytes(kind: number, slots: number, pages: number, history: number): number;
  pageSetCreate(kind: number, slots: number, pages: number, history: number, eager: number): number;
  pageSetRequest(set: number, page: number, advice: number): number;
  pageSetRun(set: number, pages: number, advice: number, count: number): number;
  pageSetClear(set: number, seed: number): void;
  pageSetSlot(set: number, page: number): number;
  pageSetRequests(set: number): number;
  pageSetFaults(set: number): number;
  pageSetSlots(set: number): number;
  pageSetPages(set: number): number;
  pageSetValidate(set: number): number;
}

export interface KeyedPoolExports {
  keyedPoolBytes(blocks: number, keyBytes: number, batch: number): number;
  keyedPoolCreate(blocks: number, keyBytes: number, batch: number): number;
  keyedPoolFits(pool: number, touched: number, needed: number): number;
  keyedPoolAllocate(pool: number, touched: number, taken: number): number;
  keyedPoolRelease(pool: number, count: number): number;
  keyedPoolEnterKeys(pool: number, group: number, length: number, count: number): number;
  keyedPoolFindKeys(pool: number, group: number, length: number, count: number, all: number): number;
  keyedPoolDropKeys(pool: number, count: number): number;
  keyedPoolSetAside(pool: number, id: number, aside: number): number;
  keyedPoolValidate(pool: number): number;
}

export interface SchedulingExports {
  schedulerRegionBytes(
    kv: number,
    maxRequests: number,
    maxRunning: number,
    maxBatchTokens: number,
    tokenCapacity: number,
    tenants: number,
  ): number;
  schedulerRegionCreate(
    kv: number,
    maxRequests: number,
    maxRunning: number,
    maxBatchTokens: number,
    maxChunkTokens: number,
    watermarkBlocks: number,
    vocabSize: number,
    policy: number,
    tokenCapacity: number,
    queueTimeoutUs: number,
    agingTokens: number,
    tenants: number,
    inputWeight: number,
    outputWeight: number,
  ): number;
  requestSubmit(
    scheduler: number,
    idLow: number,
    idHigh: number,
    promptTokens: number,
    maxNewTokens: number,
    namespace: number,
    tenant: number,
    priority: number,
    arrivalUs: number,
    deadlineUs: number,
    peakSlots: number,
    lastChunk: number,
    chunkTokens: number,
  ): number;
  schedulerDraftsBytes(scheduler: number, most: number): number;
  schedulerDraftsCreate(scheduler: number, most: number): number;
  schedulerDrafts(scheduler: number): number;
  requestPropose(scheduler: number, request: number, count: number): number;
  schedulerStep(scheduler: number, nowUs: number): number;
  schedulerCommit(scheduler: number, stepId: number, nowUs: number): number;
  schedulerAbandon(scheduler: number, stepId: number): number;
  requestLanes(
    scheduler: number,
    request: number,
    flags: number,
    sequence: number,
    prefillBlocks: number,
  ): number;
  requestMarks(scheduler: number, request: number, marks: number): number;
  requestPin(scheduler: number, request: number, hard: number, priority: number, forUs: number): number;
  requestTurns(scheduler: number, request: number): number;
  requestNextTurn(
    scheduler: number,
    request: number,
    count: number,
    maxNewTokens: number,
    last: number,
  ): number;
  requestAbort(scheduler: number, request: number): number;
  schedulerNextWakeUs(scheduler: number): number;
  schedulerPlan(scheduler: number): number;
  schedulerResults(scheduler: number): number;
  schedulerCache(scheduler: number): number;
  schedulerMaxRunning(scheduler: number): number;
  schedulerRunning(scheduler: number): number;
  schedulerWaiting(scheduler: number): number;
  schedulerArriving(scheduler: number): number;
  schedulerStepInFlight(scheduler: number): number;
  schedulerTenantCounter(scheduler: number, tenant: number): number;
  requestState(scheduler: number, request: number): number;
  requestComputed(scheduler: number, request: number): number;
  requestGenerated(scheduler: number, request: number): number;
  schedulerValidateAll(scheduler: number): number;
}

export interface TierExports {
  hostTierBytes(scheduler: number, blocks: number, copies: number): number;
  hostTierCreate(
    scheduler: number,
    blocks: number,
    copies: number,
    preemption: number,
    blocking: number,
    reuse: number,
    outUs: number,
    inUs: number,
    prefillUs: number,
    swapIn: number,
  ): number;
  schedulerTier(scheduler: number): number;
  schedulerTransferred(scheduler: number, transfer: number, good: number, us: number): number;
  requestPrioritize(scheduler: number, request: number, priority: number): number;
  requestPredict(scheduler: number, request: number, tokens: number): number;
  schedulerPreemptive(scheduler: number, preemptive: number): number;
}

export interface ViewExports {
  freeExtentsBytes(blocks: number): number;
  freeExtentsCreate(blocks: number): number;
  freeExtentsAllocate(extents: number, length: number, fit: number): number;
  freeExtentsAllocated(extents: number): number;
  freeExtentsAllocateAt(extents: number, start: number, length: number): number;
  freeExtentsFree(extents: number, start: number, length: number): number;
  freeExtentsBlocks(extents: number): number;
  freeExtentsTotal(extents: number): number;
  freeExtentsLargest(extents: number): number;
  freeExtentsCount(extents: number): number;
  freeExtentsList(extents: number, start: number, limit: number, out: number): number;
  freeExtentsValidate(extents: number): number;
  orderedViewBytes(capacity: number): number;
  orderedViewCreate(capacity: number, kind: number): number;
  orderedViewSet(view: number, id: number, order: bigint): number;
  orderedViewSetTime(view: number, id: number, us: number): number;
  orderedViewSetEviction(
    view: number,
    id: number,
    klass: number,
    score: number,
    lastUse: number,
    depth: number,
  ): number;
  orderedViewSetTenant(
    view: number,
    id: number,
    tenant: number,
    klass: number,
    score: number,
    lastUse: number,
    depth: number,
  ): number;
  orderedViewRemove(view: number, id: number): number;
  orderedViewHas(view: number, id: number): number;
  orderedViewOrder(view: number, id: number): bigint;
  orderedViewFirst(view: number, lowest: bigint, highest: bigint): number;
  orderedViewPop(view: number, lowest: bigint, highest: bigint): number;
  orderedViewPopFirst(view: number): number;
  orderedViewTenantFirst(view: number, tenant: number): number;
  orderedViewTenantPop(view: number, tenant: number): number;
  orderedViewPopDue(view: number, nowUs: number, limit: number, out: number): number;
  orderedViewNextTime(view: number): number;
  orderedViewNext(view: number, id: number): number;
  orderedViewList(view: number, from: number, highest: bigint, limit: number, out: number): number;
  orderedViewSize(view: number): number;
  orderedViewCapacity(view: number): number;
  orderedViewKind(view: number): number;
  orderedViewClear(view: number): void;
  orderedViewValidate(view: number): number;
}

export interface VirtualMemoryExports {
  virtualMemoryBytes(
    slots: number,
    maxTokens: number,
    tokenBytes: number,
    pageBytes: number,
    blocks: number,
  ): number;
  virtualMemoryCreate(
    slots: number,
    maxTokens: number,
    tokenBytes: number,
    pageBytes: number,
    blocks: number,
    tensors: number,
    eagerSteps: number,
    eagerBlocks: number,
    eagerReclaim: number,
  ): number;
  virtualMemoryAllocate(vm: number, tokens: number, from: number, prefix: number): number;
  virtualMemoryFree(vm: number, slot: number, unmap: number): number;
  virtualMemoryStep(vm: number): number;
  virtualMemoryBackground(vm: number): number;
  virtualMemoryShare(vm: number, from: number, to: number, tokens: number): number;
  virtualMemoryTrim(vm: number): number;
  virtualMemoryAvailable(vm: number): number;
}

export interface SelectionExports {
  selectionBytes(capacity: number, floats: number): number;
  selectionCreate(capacity: number, floats: number): number;
  selectTopk(
    selection: number,
    scores: number,
    kind: number,
    ties: number,
    positions: number,
    stride: number,
    lengths: number,
    segments: number,
    k: number,
    minimum: number,
    low: number,
    high: number,
  ): number;
  selectArgmin(
    scores: number,
    kind: number,
    positions: number,
    count: number,
    low: number,
    high: number,
  ): number;
  selectAccumulate(
    plane: number,
    planeStride: number,
    rows: number,
    rowStride: number,
    group: number,
    lengths: number,
    lanes: number,
    aggregate: number,
    limit: number,
  ): number;
  selectTrack(
    lastImportant: number,
    interval: number,
    planeStride: number,
    rows: number,
    rowStride: number,
    group: number,
    lengths: number,
    lanes: number,
    aggregate: number,
    threshold: number,
    now: number,
  ): number;
  selectScaleAbove(
    plane: number,
    planeStride: number,
    lengths: number,
    lanes: number,
    limit: number,
    factor: number,
  ): number;
  selectPool(
    source: number,
    sourceStride: number,
    target: number,
    targetStride: number,
    lengths: number,
    rows: number,
    kernel: number,
    kind: number,
  ): number;
  selectApportion(
    strategy: number,
    weights: number,
    count: number,
    total: number,
    minimum: number,
    maximum: number,
    beta: number,
    out: number,
    work: number,
  ): number;
}

export interface LaneExports {
  lanesBytes(
    layers: number,
    kvHeads: number,
    capacity: number,
    planes: number,
    slabs: number,
    moveCapacity: number,
  ): number;
  lanesCreate(
    kv: number,
    layers: number,
    kvHeads: number,
    capacity: number,
    planes: number,
    slabs: number,
    moveCapacity: number,
  ): number;
  lanesOpen(arena: number, sequence: number): number;
  lanesAt(arena: number, index: number): number;
  lanesReset(arena: number, lanes: number, sequence: number): number;
  lanesClose(arena: number, lanes: number): number;
  lanesAppend(arena: number, lanes: number, count: number): number;
  lanesFork(arena: number, lanes: number, sequence: number): number;
  lanesPlan(arena: number, lanes: number, privateFrom: number): number;
  lanesLayer(arena: number, lanes: number, layer: number, count: number): number;
  lanesMoves(arena: number): number;
  lanesCommit(arena: number): number;
  lanesRollback(arena: number): number;
  lanesValidateAll(arena: number): number;
}

export interface OutsideExports {
  hasherBytes(): number;
  hasherStart(hasher: number, key: number): void;
  hasherUpdate(hasher: number, from: number, bytes: number): void;
  hasherEnd(hasher: number, out: number): void;
  kvContentBytes(blocks: number, scopes: number): number;
  kvContentCreate(kv: number, scopes: number, domainKey: number, fingerprint: number): number;
  kvContent(kv: number): number;
  kvContentScope(kv: number, namespace: number, list: number, bytes: number, root: number): number;
  kvContentKeys(kv: number, sequence: number, from: number, count: number, out: number): number;
  kvContentKey(kv: number, block: number, out: number): number;
  kvContentPrompt(
    kv: number,
    namespace: number,
    count: number,
    marks: number,
    from: number,
    limit: number,
    out: number,
  ): number;
  kvContentChunk(
    kv: number,
    tokens: number,
    count: number,
    extras: number,
    bytes: number,
    out: number,
  ): number;
  kvEventsBytes(blocks: number, capacity: number): number;
  kvEventsCreate(kv: number, capacity: number, tier: number, group: number): number;
  kvEvents(kv: number): number;
  kvEventsRead(kv: number, out: number, limit: number, others: number): number;
  kvEventsBatches(kv: number): number;
  kvEventsLose(kv: number): number;
  kvEventsSnapshot(kv: number, out: number, limit: number, begin: number): number;
}

export interface CoreExports
  extends
    MemoryExports,
    OrderedIndexExports,
    ViewExports,
    VirtualMemoryExports,
    PagingExports,
    GroupExports,
    IsolationExports,
    PageSetExports,
    KeyedPoolExports,
    SchedulingExports,
    TierExports,
    SelectionExports,
    LaneExports,
    OutsideExports {}
