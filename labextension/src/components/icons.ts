/** Our icons, in the strokes and colours of JupyterLab's own. */

import { LabIcon } from '@jupyterlab/ui-components';

function icon(name: string, paths: string): LabIcon {
  const svgstr =
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24">' +
    `<g class="jp-icon3 jp-icon-selectable" fill="#616161">${paths}</g></svg>`;
  return new LabIcon({ name: `gpu-reclaim:${name}`, svgstr });
}

const BAR = '<rect x="4" y="19" width="16" height="2"/>';

export const gpuIcon = icon(
  'gpu',
  '<path d="M7 5h10a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2V7a2 2 0 0 1 2-2zm0 2v10h10V7z"/>' +
    '<path d="M9 9h6v6H9z"/><path d="M8 2h2v3H8zM14 2h2v3h-2zM8 19h2v3H8zM14 19h2v3h-2zM2 8h3v2H2zM2 14h3v2H2zM19 8h3v2h-3zM19 14h3v2h-3z"/>'
);
export const reclaimIcon = icon('reclaim', `<path d="M11 3h2v9h3.5L12 17l-4.5-5H11z"/>${BAR}`);
export const restoreIcon = icon('restore', `<path d="M11 17h2V8h3.5L12 3 7.5 8H11z"/>${BAR}`);
export const keepIcon = icon('keep', '<path d="M8 3h8v2h-1v6l3 3v2h-5v6h-2v-6H6v-2l3-3V5H8z"/>');
export const unkeepIcon = icon(
  'unkeep',
  '<path d="M8 3h8v2h-1v6l3 3v2h-5v6h-2v-6H6v-2l3-3V5H8z" opacity="0.5"/><path d="M3.5 4.9 4.9 3.5l15.6 15.6-1.4 1.4z"/>'
);
