// WebGPU in browsers and in Node: finding an adapter, telling hardware from software, letting go again.

/** Adapters that compute on the CPU, for tests: slower than every other mode. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render/i;

/** The adapter's name when WebGPU answers here, else why it does not. In Node it comes from the optional package `webgpu`. */
export async function findAdapter(): Promise<{ adapter: string; software: boolean } | { reason: string }> {
  try {
    if (globalThis.navigator?.gpu === undefined) {
      if (!(await mayHaveGpu())) return { reason: 'this machine has no graphics device' };
      const { create, globals } = (await import('webgpu')) as { create(flags: string[]): GPU; globals: object };
      Object.assign(globalThis, globals);
      const gpu = create([]);
      if (globalThis.navigator === undefined)
        Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true, writable: true });
      else Object.defineProperty(globalThis.navigator, 'gpu', { value: gpu, configurable: true });
    }
    const adapter = await globalThis.navigator.gpu.requestAdapter();
    if (adapter === null) return { reason: 'WebGPU offers no adapter (no GPU or no driver)' };
    const { vendor, architecture, device, description } = adapter.info;
    const name = description || device || `${vendor} ${architecture}`.trim() || 'unnamed adapter';
    return { adapter: name, software: SOFTWARE.test(`${vendor} ${architecture} ${device} ${description}`) };
  } catch (e) {
    return { reason: `WebGPU could not be loaded (${e instanceof Error ? e.message.split('\n')[0] : String(e)})` };
  }
}

/** On Linux, whether looking is worth while: without a device or a driver named by hand, Dawn finds nothing and says so on stderr. */
async function mayHaveGpu(): Promise<boolean> {
  if (process.platform !== 'linux' || process.env.VK_DRIVER_FILES !== undefined) return true;
  const { existsSync } = await import('node:fs');
  return ['/dev/dri', '/dev/nvidia0', '/dev/dxg', '/dev/kfd'].some((path) => existsSync(path));
}

/** Node stays alive while `navigator.gpu` is held (DESIGN §2.2). */
export function releaseAdapter(): void {
  if (typeof process === 'undefined' || globalThis.navigator === undefined) return;
  Reflect.deleteProperty(globalThis.navigator, 'gpu');
  if (Object.keys(globalThis.navigator).length === 0 && Object.getPrototypeOf(globalThis.navigator) === Object.prototype)
    Reflect.deleteProperty(globalThis, 'navigator');
}

/** A hardware adapter's name, or why there is none. Leaves nothing behind. */
export async function hardwareAdapter(): Promise<{ adapter: string } | { reason: string }> {
  const found = await findAdapter();
  releaseAdapter();
  if ('adapter' in found && found.software) return { reason: `the only WebGPU adapter computes in software (${found.adapter})` };
  return found;
}
