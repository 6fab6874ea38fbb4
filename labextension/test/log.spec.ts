import { describe, expect, it } from 'vitest';

import { EVERYTHING, filtersOf, logRowOf, outcomesOf, questionIn, stepsOf } from '../src/select/log';
import { aTransition, GIB, instant, language } from './worlds';

const { trans } = language;

describe('the log', () => {
  it('says what happened in a row', () => {
    expect(logRowOf(aTransition(), language)).toMatchObject({
      notebook: 'digits.ipynb',
      what: 'reclaimed',
      why: 'idle',
      bytes: '4.0 GiB',
      took: '420 ms',
      tone: 'good'
    });
    const failed = aTransition({ event: 'restore_failed', moved_bytes: null, took_seconds: 12.34, reason: null });
    expect(logRowOf(failed, language)).toMatchObject({ what: 'restore failed, nothing lost', why: '', took: '12.3 s', tone: 'warning' });
    expect(logRowOf(aTransition({ event: 'lost' }), language).tone).toBe('error');
  });

  it('shows an event that this page does not know by its name', () => {
    expect(logRowOf(aTransition({ event: 'something_new' }), language).what).toBe('something new');
  });

  it('tells an episode from its begin to its end, and nothing of others', () => {
    const rows = [
      aTransition({ id: 'c', at: instant(60), event: 'restore_done', took_seconds: 0.3 }),
      aTransition({ id: 'x', episode_id: 'e2' }),
      aTransition({ id: 'b', at: instant(1), unmovable: { 'CUDA graph': GIB }, actor: 'ada' }),
      aTransition({ id: 'a', event: 'reclaim_started', moved_bytes: null, freed_bytes: {}, took_seconds: null })
    ];
    const steps = stepsOf(rows, 'e1', language);
    expect(steps.map(step => step.what)).toEqual(['reclaim begun', 'reclaimed', 'restored']);
    expect(steps[1]?.figures).toEqual([
      '4.0 GiB moved',
      '4.0 GiB freed',
      '1.0 GiB left in place: CUDA graph',
      'in 420 ms',
      'by torch_offload',
      'asked for by ada'
    ]);
    expect(stepsOf(rows, null, language)).toEqual([]);
  });

  it('asks the server for what the filters say', () => {
    expect(filtersOf(EVERYTHING, trans)).toEqual({});
    const question = { ...EVERYTHING, notebook: 'work/digits.ipynb', outcome: 'refused', since: '2026-03-01T10:00' };
    expect(filtersOf(question, trans)).toEqual({
      notebook: 'work/digits.ipynb',
      event: ['reclaim_refused', 'restore_refused'],
      since: new Date(2026, 2, 1, 10, 0).toISOString()
    });
    expect(new Set(outcomesOf(trans).flatMap(outcome => outcome.events)).size).toBe(
      outcomesOf(trans).flatMap(outcome => outcome.events).length
    );
  });

  it('reads a link, and passes over what is no filter', () => {
    expect(questionIn({ outcome: 'failed', token: 'secret', gpu: 7 })).toEqual({ ...EVERYTHING, outcome: 'failed' });
  });
});
