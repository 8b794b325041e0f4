export default {
  entries: ["test/assembly/**/*.spec.ts"],
  include: ["test/assembly/**/*.include.ts"],
  disclude: [/node_modules/],
  outputBinary: false,
  asconfig: "as-pect.asconfig.json",
  wasi: null,
  async instantiate(_memory, createImports, instantiate, binary) {
    const memory = new WebAssembly.Memory({ initial: 256, maximum: 4096, shared: true });
    return instantiate(binary, createImports({ env: { memory, park: () => 0 } }));
  },
};
