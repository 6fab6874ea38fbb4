import { readFileSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [
    {
      name: 'svg-as-text', // as JupyterLab's own builder has it
      enforce: 'pre',
      load(id) {
        const path = id.split('?')[0];
        return path.endsWith('.svg') ? `export default ${JSON.stringify(readFileSync(path, 'utf8'))}` : undefined;
      }
    }
  ],
  test: {
    environment: 'jsdom',
    include: ['labextension/test/**/*.spec.{ts,tsx}'],
    server: { deps: { inline: [/@jupyterlab/, /@jupyter\//, /@lumino/] } },
    setupFiles: ['labextension/test/setup.ts'],
    testTimeout: 60_000 // a busy machine must not fail what works
  }
});
