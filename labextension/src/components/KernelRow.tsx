/** One kernel: what it holds, what happens to it and why, and what may be done about it. */

import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import * as React from 'react';

import type { Row } from '../select/rows';
import { keepIcon, reclaimIcon, restoreIcon, unkeepIcon } from './icons';

export interface RowActions {
  open(row: Row): void;
  reclaim(row: Row): void;
  restore(row: Row): void;
  /** Ask for how long, beside the button pressed. */
  keep(row: Row, button: HTMLElement): void;
  unkeep(row: Row): void;
}

export interface RowProps {
  row: Row;
  actions: RowActions;
  trans: TranslationBundle;
}

export function KernelRow({ row, actions, trans }: RowProps): JSX.Element {
  return (
    <li className="jp-GpuReclaim-row" data-kernel={row.kernelId} data-state={row.state}>
      <span className="jp-GpuReclaim-dot" aria-hidden="true" />
      <div className="jp-GpuReclaim-name">
        {row.path === null ? (
          <span title={row.name}>{row.name}</span>
        ) : (
          <button type="button" title={trans.__('Open %1', row.path)} onClick={() => actions.open(row)}>
            {row.name}
          </button>
        )}
      </div>
      <span className="jp-GpuReclaim-bytes">{row.bytes}</span>
      <p className="jp-GpuReclaim-why">
        <span className="jp-GpuReclaim-badge">{row.badge}</span>
        {row.why && ` · ${row.why}`}
      </p>
      <div className="jp-GpuReclaim-actions">
        {row.canReclaim && <Act icon={reclaimIcon} label={trans.__('Reclaim %1 now', row.name)} onClick={() => actions.reclaim(row)} />}
        {row.canRestore && <Act icon={restoreIcon} label={trans.__('Restore %1 now', row.name)} onClick={() => actions.restore(row)} />}
        {row.canKeep && row.keptUntil === null && (
          <Act icon={keepIcon} label={trans.__('Keep %1 on the GPU …', row.name)} menu onClick={button => actions.keep(row, button)} />
        )}
        {row.keptUntil !== null && (
          <Act
            icon={unkeepIcon}
            label={trans.__('Keep %1 no longer (kept until %2)', row.name, row.keptUntil)}
            onClick={() => actions.unkeep(row)}
          />
        )}
      </div>
      {row.progress !== null && <progress value={row.progress} max={1} aria-label={row.badge} />}
    </li>
  );
}

interface ActProps {
  icon: LabIcon;
  label: string;
  menu?: boolean;
  onClick(button: HTMLElement): void;
}

function Act({ icon, label, menu, onClick }: ActProps): JSX.Element {
  return (
    <button
      type="button"
      className="jp-GpuReclaim-act"
      title={label}
      aria-label={label}
      aria-haspopup={menu ? 'menu' : undefined}
      onClick={event => onClick(event.currentTarget)}
    >
      <icon.react tag="span" aria-hidden="true" />
    </button>
  );
}
