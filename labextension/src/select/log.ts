/** Rows of the log as people read them, and what one episode came to. Pure. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { LogFilters, Transition } from '../types';
import { bytesInWords, nameIn, type Language } from './words';

export type Tone = 'calm' | 'good' | 'warning' | 'error';

export interface LogRow {
  id: string;
  at: string;
  notebook: string;
  path: string;
  what: string;
  why: string;
  bytes: string;
  took: string;
  tone: Tone;
  simulated: boolean;
}

/** One step of an episode, with what there is to say about it. */
export interface Step {
  id: string;
  at: string;
  what: string;
  figures: string[];
  detail: string;
}

export interface Outcome {
  id: string;
  label: string;
  events: string[];
}

export interface LogQuestion {
  /** The path, as the log has it. */
  notebook: string;
  gpu: string;
  reason: string;
  outcome: string;
  /** As `<input type="datetime-local">` has them: without a zone, the browser's. Empty: open. */
  since: string;
  until: string;
}

export const EVERYTHING: LogQuestion = { notebook: '', gpu: '', reason: '', outcome: '', since: '', until: '' };
/** Why anything in the log was done or not done. */
export const REASONS = [
  'idle',
  'pressure',
  'admission',
  'requested',
  'user_code',
  'dry_run',
  'cancelled',
  'room',
  'prefetch',
  'no_room',
  'copy_damaged'
];

export function outcomesOf(trans: TranslationBundle): Outcome[] {
  return [
    { id: 'reclaimed', label: trans.__('reclaimed'), events: ['reclaim_done'] },
    { id: 'restored', label: trans.__('restored'), events: ['restore_done'] },
    { id: 'refused', label: trans.__('refused'), events: ['reclaim_refused', 'restore_refused'] },
    { id: 'failed', label: trans.__('failed'), events: ['reclaim_failed', 'restore_failed', 'wait_ended', 'lost', 'alarm_raised'] },
    { id: 'proposed', label: trans.__('only proposed (dry run)'), events: ['reclaim_proposed'] }
  ];
}

/** What the server is asked for a question. */
export function filtersOf(question: LogQuestion, trans: TranslationBundle): LogFilters {
  const events = outcomesOf(trans).find(outcome => outcome.id === question.outcome)?.events;
  return {
    ...(question.notebook && { notebook: question.notebook }),
    ...(question.gpu && { gpu: question.gpu }),
    ...(question.reason && { reason: question.reason }),
    ...(events && { event: events }),
    ...(question.since && { since: new Date(question.since).toISOString() }),
    ...(question.until && { until: new Date(question.until).toISOString() })
  };
}

/** The question in a link's query, or from a layout that was saved; what it does not name is left open. */
export function questionIn(given: Readonly<Record<string, unknown>>): LogQuestion {
  const names = Object.keys(EVERYTHING) as (keyof LogQuestion)[];
  const question = { ...EVERYTHING };
  for (const name of names) {
    const value = given[name];
    question[name] = typeof value === 'string' ? value : '';
  }
  return question;
}

export function logRowOf(transition: Transition, language: Language): LogRow {
  const bytes = transition.moved_bytes ?? sum(transition.footprint);
  return {
    id: transition.id,
    at: new Date(transition.at).toLocaleString(),
    notebook: nameIn(transition.label) || transition.kernel_id,
    path: transition.label,
    what: eventInWords(transition.event, language.trans),
    why: (transition.reason ?? '').replaceAll('_', ' '),
    bytes: bytes > 0 ? bytesInWords(bytes, language.units) : '',
    took: tookInWords(transition.took_seconds),
    tone: toneOf(transition.event),
    simulated: transition.simulated
  };
}

/** The steps of an episode, oldest first; those of other episodes are left out. */
export function stepsOf(transitions: Transition[], episodeId: string | null, language: Language): Step[] {
  return transitions
    .filter(transition => episodeId !== null && transition.episode_id === episodeId)
    .sort((a, b) => Date.parse(a.at) - Date.parse(b.at))
    .map(transition => stepOf(transition, language));
}

export function stepOf(transition: Transition, { trans, units }: Language): Step {
  const inWords = (count: number): string => bytesInWords(count, units);
  const freed = sum(transition.freed_bytes);
  const left = Object.entries(transition.unmovable).map(([reason, count]) => trans.__('%1 left in place: %2', inWords(count), reason));
  const figures = [
    ...(transition.moved_bytes === null ? [] : [trans.__('%1 moved', inWords(transition.moved_bytes))]),
    ...(freed > 0 ? [trans.__('%1 freed', inWords(freed))] : []),
    ...left,
    ...(transition.took_seconds === null ? [] : [trans.__('in %1', tookInWords(transition.took_seconds))]),
    ...(transition.mechanism === null ? [] : [trans.__('by %1', transition.mechanism)]),
    ...(transition.actor ? [trans.__('asked for by %1', transition.actor)] : [])
  ];
  return {
    id: transition.id,
    at: new Date(transition.at).toLocaleString(),
    what: eventInWords(transition.event, trans),
    figures,
    detail: transition.detail
  };
}

function eventInWords(event: string, trans: TranslationBundle): string {
  const words: Record<string, string> = {
    reclaim_started: trans.__('reclaim begun'),
    reclaim_done: trans.__('reclaimed'),
    reclaim_refused: trans.__('reclaim refused'),
    reclaim_failed: trans.__('reclaim failed, nothing lost'),
    reclaim_proposed: trans.__('would have been reclaimed'),
    restore_started: trans.__('restore begun'),
    restore_done: trans.__('restored'),
    restore_refused: trans.__('restore refused'),
    restore_failed: trans.__('restore failed, nothing lost'),
    wait_ended: trans.__('wait ended, nothing lost'),
    pinned: trans.__('kept'),
    unpinned: trans.__('kept no longer'),
    alarm_raised: trans.__('alarm raised'),
    alarm_cleared: trans.__('alarm cleared'),
    kernel_gone: trans.__('kernel ended'),
    lost: trans.__('lost by the driver')
  };
  return words[event] ?? event.replaceAll('_', ' ');
}

function toneOf(event: string): Tone {
  if (event === 'lost' || event === 'alarm_raised') {
    return 'error';
  }
  if (event.endsWith('_failed') || event === 'wait_ended') {
    return 'warning';
  }
  return event === 'reclaim_done' ? 'good' : 'calm';
}

function tookInWords(seconds: number | null): string {
  if (seconds === null) {
    return '';
  }
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

function sum(bytes: Record<string, number>): number {
  return Object.values(bytes).reduce((total, count) => total + count, 0);
}
