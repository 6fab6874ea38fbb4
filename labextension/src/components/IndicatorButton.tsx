/** A state in a few words that opens the sidebar; the same in a notebook's toolbar and in the status bar. */

import * as React from 'react';

import type { Indicator } from '../select/indicator';

export interface IndicatorProps {
  indicator: Indicator;
  /** Somebody is about to read its title, which tells of times. */
  onAim(): void;
  onClick(): void;
}

export function IndicatorButton({ indicator, onAim, onClick }: IndicatorProps): JSX.Element {
  const { state, text, title, progress } = indicator;
  return (
    <button
      type="button"
      className="jp-GpuReclaim-indicator"
      data-state={state}
      title={title}
      onPointerEnter={onAim}
      onFocus={onAim}
      onClick={onClick}
    >
      <span className="jp-GpuReclaim-dot" aria-hidden="true" />
      <span>{text}</span>
      {progress !== null && <progress value={progress} max={1} aria-label={text} />}
    </button>
  );
}
