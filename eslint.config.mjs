import eslint from '@eslint/js';
import hooks from 'eslint-plugin-react-hooks';
import { defineConfig } from 'eslint/config';
import typescript from 'typescript-eslint';

export default defineConfig(
  { ignores: ['labextension/lib/'] },
  eslint.configs.recommended,
  typescript.configs.recommendedTypeChecked,
  {
    files: ['labextension/src/**/*.{ts,tsx}'],
    plugins: { 'react-hooks': hooks },
    languageOptions: { parserOptions: { project: './tsconfig.json' } },
    rules: {
      ...hooks.configs.recommended.rules,
      eqeqeq: 'error',
      '@typescript-eslint/no-explicit-any': 'error'
    }
  }
);
