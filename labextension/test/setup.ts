/** What JupyterLab's packages expect of a browser and jsdom lacks. */

class Observer {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
}

const browser = globalThis as unknown as Record<string, unknown>;
browser.DragEvent ??= class extends MouseEvent {};
browser.ResizeObserver ??= Observer;
browser.IntersectionObserver ??= Observer;
browser.matchMedia ??= () => ({ matches: false, addEventListener() {}, removeEventListener() {} });
browser.requestIdleCallback ??= (work: () => void) => setTimeout(work, 0);
browser.cancelIdleCallback ??= (handle: number) => clearTimeout(handle);
browser.IS_REACT_ACT_ENVIRONMENT = true;
