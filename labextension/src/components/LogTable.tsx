/** The log's rows, newest first; each opens its episode below it, and the end of the list asks for more. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { LogRow, Step } from '../select/log';

export interface LogTableProps {
  rows: LogRow[];
  /** The row whose episode is open, and its steps; null while they are asked for. */
  open: { id: string; steps: Step[] | null } | null;
  more: boolean;
  onOpen(id: string): void;
  onEnd(): void;
  trans: TranslationBundle;
}

const COLUMNS = 6;

export function LogTable({ rows, open, more, onOpen, onEnd, trans }: LogTableProps): JSX.Element {
  return (
    <div className="jp-GpuReclaimLog-scroll" tabIndex={0} role="region" aria-label={trans.__('Log')}>
      <table>
        <thead>
          <tr>
            {[trans.__('When'), trans.__('Notebook'), trans.__('What'), trans.__('Why'), trans.__('Memory'), trans.__('Took')].map(
              title => (
                <th key={title} scope="col">
                  {title}
                </th>
              )
            )}
          </tr>
        </thead>
        <tbody>
          {rows.map(row => (
            <React.Fragment key={row.id}>
              <Line row={row} open={open?.id === row.id} onOpen={onOpen} trans={trans} />
              {open?.id === row.id && (
                <tr className="jp-GpuReclaimLog-episode">
                  <td colSpan={COLUMNS}>
                    <Episode steps={open.steps} trans={trans} />
                  </td>
                </tr>
              )}
            </React.Fragment>
          ))}
        </tbody>
      </table>
      {more && <End key={rows.length} onEnd={onEnd} label={trans.__('Loading …')} />}
    </div>
  );
}

interface LineProps {
  row: LogRow;
  open: boolean;
  onOpen(id: string): void;
  trans: TranslationBundle;
}

function Line({ row, open, onOpen, trans }: LineProps): JSX.Element {
  return (
    <tr data-tone={row.tone} data-row={row.id}>
      <td className="jp-GpuReclaimLog-figure">{row.at}</td>
      <td title={row.path}>{row.notebook}</td>
      <td>
        <button type="button" aria-expanded={open} onClick={() => onOpen(row.id)}>
          {row.what}
        </button>
        {row.simulated && <span className="jp-GpuReclaim-tag">{trans.__('simulated')}</span>}
      </td>
      <td>{row.why}</td>
      <td className="jp-GpuReclaimLog-figure">{row.bytes}</td>
      <td className="jp-GpuReclaimLog-figure">{row.took}</td>
    </tr>
  );
}

function Episode({ steps, trans }: { steps: Step[] | null; trans: TranslationBundle }): JSX.Element {
  if (steps === null) {
    return <p>{trans.__('Loading …')}</p>;
  }
  return (
    <ol>
      {steps.map(step => (
        <li key={step.id}>
          <time>{step.at}</time> <strong>{step.what}</strong> {step.figures.join(' · ')}
          {step.detail && <p>{step.detail}</p>}
        </li>
      ))}
    </ol>
  );
}

/** Asks for more as soon as it comes into sight. */
function End({ label, onEnd }: { label: string; onEnd(): void }): JSX.Element {
  const place = React.useRef<HTMLParagraphElement>(null);
  React.useEffect(() => {
    const observer = new IntersectionObserver(entries => {
      if (entries.some(entry => entry.isIntersecting)) {
        onEnd();
      }
    });
    if (place.current) {
      observer.observe(place.current);
    }
    return () => observer.disconnect();
  }, [onEnd]);
  return <p ref={place}>{label}</p>;
}
