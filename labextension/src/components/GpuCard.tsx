/** One GPU: its name, its load, and a bar of who holds how much of its memory. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Card } from '../select/cards';

export function GpuCard({ card, trans }: { card: Card; trans: TranslationBundle }): JSX.Element {
  const load = [card.utilization, card.power].filter(Boolean).join(' · ');
  return (
    <article className="jp-GpuReclaim-card" data-gpu={card.uuid}>
      <header>
        <h3 title={card.uuid}>{card.name}</h3>
        {card.simulated && <span className="jp-GpuReclaim-tag">{trans.__('simulated')}</span>}
        {load && <span className="jp-GpuReclaim-load">{load}</span>}
      </header>
      <div className="jp-GpuReclaim-bar" role="img" aria-label={card.summary}>
        {card.segments.map((segment, index) => (
          <span key={index} data-kind={segment.kind} title={segment.label} style={{ flexGrow: segment.share }} />
        ))}
      </div>
      <dl className="jp-GpuReclaim-legend">
        <Figure kind="kernel" term={trans.__('yours')} value={card.yours} />
        <Figure kind="others" term={trans.__('others')} value={card.others} />
        <Figure kind="free" term={trans.__('free')} value={card.free} />
        {card.reclaimed && <Figure kind="reclaimed" term={trans.__('won back')} value={card.reclaimed} />}
      </dl>
    </article>
  );
}

function Figure({ kind, term, value }: { kind: string; term: string; value: string }): JSX.Element {
  return (
    <div data-kind={kind}>
      <dt>{term}</dt>
      <dd>{value}</dd>
    </div>
  );
}
