import eslint from '@eslint/js';
import hooks from 'eslint-plugin-react-hooks';
import { defineConfig } from 'eslint/config';
import typescript from 'typescript-eslint';

export default defineConfig(
  { ignores: ['labextension/lib/', 'labextension/style/'] },
  eslint.configs.recommended,
  typescript.configs.recommended,
  {
    files: ['labextension/src/**/*.{ts,tsx}'],
    extends: [typescript.configs.recommendedTypeCheckedOnly, hooks.configs.flat.recommended],
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      eqeqeq: 'error',
      '@typescript-eslint/no-namespace': 'off', // as JupyterLab groups the ids of commands
      '@typescript-eslint/unbound-method': 'off', // Lumino's signals take a method and its `this` apart
      'react-hooks/refs': 'off' // the chart's own canvas outlives a render
    }
  }
);
