/** The whole sidebar. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Card } from '../select/cards';
import type { Notice } from '../select/notices';
import type { Row } from '../select/rows';
import type { Total } from '../select/totals';
import { GpuCard } from './GpuCard';
import { KernelRow, type RowActions } from './KernelRow';
import { Notices } from './Notices';

export interface PanelProps {
  notices: Notice[];
  totals: Total[];
  cards: Card[];
  rows: Row[];
  /** False before the first status: an empty list would then be a claim. */
  known: boolean;
  chart: React.ReactNode;
  spoken: string;
  actions: RowActions;
  showLog(): void;
  trans: TranslationBundle;
}

export function Panel(props: PanelProps): JSX.Element {
  const { notices, totals, cards, rows, known, chart, spoken, actions, showLog, trans } = props;
  return (
    <div className="jp-GpuReclaim-panel">
      <div className="jp-GpuReclaim-head">
        <h2>{trans.__('GPU reclaim')}</h2>
        <button type="button" className="jp-GpuReclaim-link" onClick={showLog}>
          {trans.__('Log')}
        </button>
      </div>
      <Notices notices={notices} />
      {known && (
        <dl className="jp-GpuReclaim-totals">
          {totals.map(total => (
            <div key={total.term} title={total.title} data-accent={total.accent}>
              <dt>{total.term}</dt>
              <dd>{total.value}</dd>
            </div>
          ))}
        </dl>
      )}
      {chart}
      {cards.length > 0 && (
        <section aria-label={trans.__('GPUs')}>
          {cards.map(card => (
            <GpuCard key={card.uuid} card={card} trans={trans} />
          ))}
        </section>
      )}
      {known && (
        <section aria-label={trans.__('Notebooks')}>
          {rows.length === 0 ? (
            <p className="jp-GpuReclaim-empty">{trans.__('No kernel runs. What notebooks hold on the GPU is shown here.')}</p>
          ) : (
            <ul className="jp-GpuReclaim-rows">
              {rows.map(row => (
                <KernelRow key={row.kernelId} row={row} actions={actions} trans={trans} />
              ))}
            </ul>
          )}
        </section>
      )}
      <div className="jp-GpuReclaim-spoken" role="status" aria-live="polite">
        {spoken}
      </div>
    </div>
  );
}
