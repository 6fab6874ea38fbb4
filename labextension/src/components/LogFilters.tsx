/** What the log is narrowed to. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { EVERYTHING, outcomesOf, REASONS, type LogQuestion } from '../select/log';

export interface Choice {
  id: string;
  label: string;
}

export interface LogFiltersProps {
  question: LogQuestion;
  notebooks: Choice[];
  gpus: Choice[];
  /** Files of what the filters let pass. */
  files: { label: string; address: string }[];
  /** What is new in the question: another change may not have been drawn yet. */
  onChange(change: Partial<LogQuestion>): void;
  trans: TranslationBundle;
}

export function LogFilterBar({ question, notebooks, gpus, files, onChange, trans }: LogFiltersProps): JSX.Element {
  const change = (name: keyof LogQuestion) => (value: string) => onChange({ [name]: value });
  const reasons = REASONS.map(reason => ({ id: reason, label: reason.replaceAll('_', ' ') }));
  return (
    <div className="jp-GpuReclaimLog-filters" role="search" aria-label={trans.__('Filters')}>
      <Select label={trans.__('Notebook')} value={question.notebook} choices={notebooks} onChange={change('notebook')} trans={trans} />
      <Select label={trans.__('GPU')} value={question.gpu} choices={gpus} onChange={change('gpu')} trans={trans} />
      <Select label={trans.__('Reason')} value={question.reason} choices={reasons} onChange={change('reason')} trans={trans} />
      <Select label={trans.__('Outcome')} value={question.outcome} choices={outcomesOf(trans)} onChange={change('outcome')} trans={trans} />
      <When label={trans.__('From')} value={question.since} onChange={change('since')} />
      <When label={trans.__('Until')} value={question.until} onChange={change('until')} />
      <button type="button" className="jp-GpuReclaim-link" onClick={() => onChange(EVERYTHING)}>
        {trans.__('Show everything')}
      </button>
      <span className="jp-GpuReclaimLog-files">
        {trans.__('Export')}
        {files.map(({ label, address }) => (
          <a key={label} href={address} download>
            {label}
          </a>
        ))}
      </span>
    </div>
  );
}

interface SelectProps {
  label: string;
  value: string;
  choices: Choice[];
  onChange(value: string): void;
  trans: TranslationBundle;
}

function Select({ label, value, choices, onChange, trans }: SelectProps): JSX.Element {
  // What a link names may not be among what is known here.
  const all = value === '' || choices.some(choice => choice.id === value) ? choices : [...choices, { id: value, label: value }];
  return (
    <label>
      {label}
      <select value={value} onChange={event => onChange(event.target.value)}>
        <option value="">{trans.__('any')}</option>
        {all.map(choice => (
          <option key={choice.id} value={choice.id}>
            {choice.label}
          </option>
        ))}
      </select>
    </label>
  );
}

function When({ label, value, onChange }: { label: string; value: string; onChange(value: string): void }): JSX.Element {
  return (
    <label>
      {label}
      <input type="datetime-local" value={value} onChange={event => onChange(event.target.value)} />
    </label>
  );
}
