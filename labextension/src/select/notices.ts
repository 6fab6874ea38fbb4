/** What stands above the cards: what is wrong, what it means for one's work, and what to do. Pure. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { ApiProblem } from '../api';
import type { State } from '../model';
import type { Status } from '../types';

export interface Notice {
  tone: 'calm' | 'warning' | 'error';
  title: string;
  text: string;
}

export function noticesOf(state: State, trans: TranslationBundle): Notice[] {
  const { status, problem } = state;
  return [
    ...(problem ? [problemNotice(problem, status !== null, trans)] : []),
    ...(status ? [...modeNotices(status, trans), ...alarmNotices(status, trans), ...gpuNotices(status, trans)] : [])
  ];
}

function problemNotice(problem: ApiProblem, shown: boolean, trans: TranslationBundle): Notice {
  const stale = shown ? ' ' + trans.__('What is shown below may be out of date.') : '';
  switch (problem.kind) {
    case 'unreachable':
      return {
        tone: 'warning',
        title: trans.__('The server does not answer'),
        text: trans.__('Nothing is lost: kernels bring their data back without it. This page tries again by itself.') + stale
      };
    case 'absent':
      return {
        tone: 'warning',
        title: trans.__('GPU reclaim is not running on this server'),
        text: trans.__(
          'Install jupyter_gpu_reclaim in the environment of the Jupyter server and restart the server; "jupyter server extension list" tells whether it is enabled.'
        )
      };
    case 'mismatched':
      return {
        tone: 'warning',
        title: trans.__('This page and the server are of different versions'),
        text: trans.__('Reload the page. If that does not help, upgrade jupyter_gpu_reclaim and restart the server.')
      };
    case 'forbidden':
      return {
        tone: 'warning',
        title: trans.__('You may not see this'),
        text: trans.__('Ask whoever runs this server for the permission to read "gpu_reclaim:status".')
      };
    case 'refused':
      return { tone: 'warning', title: trans.__('GPU reclaim does not work at the moment'), text: problem.message + stale };
  }
}

function modeNotices(status: Status, trans: TranslationBundle): Notice[] {
  switch (status.policy.mode) {
    case 'dry_run':
      return [
        {
          tone: 'warning',
          title: trans.__('Dry run: nothing is moved'),
          text: trans.__('What would be reclaimed is only written to the log.')
        }
      ];
    case 'off':
      return [
        {
          tone: 'calm',
          title: trans.__('Reclaiming is switched off'),
          text: trans.__('Whoever runs this server has set it so. What was reclaimed before still comes back.')
        }
      ];
    default:
      return [];
  }
}

function alarmNotices(status: Status, trans: TranslationBundle): Notice[] {
  return status.alarms.map(alarm => ({
    tone: 'error',
    title: trans.__('A copy of GPU memory came out wrong'),
    text: `${alarm.label}: ${alarm.detail}`
  }));
}

function gpuNotices(status: Status, trans: TranslationBundle): Notice[] {
  // An alarm is among the problems, too.
  const told = status.problems.filter(text => !status.alarms.some(alarm => text.includes(alarm.detail)));
  if (status.gpus !== null) {
    const none: Notice = {
      tone: 'calm',
      title: trans.__('No GPU on this server'),
      text: trans.__('There is nothing to reclaim here; notebooks run as ever.')
    };
    const problems: Notice[] = told.map(text => ({ tone: 'warning', title: trans.__('Something needs a look'), text }));
    return [...(status.gpus.length === 0 ? [none] : []), ...problems];
  }
  if (status.taken_at === null && told.length === 0) {
    return [{ tone: 'calm', title: trans.__('Looking for GPUs …'), text: trans.__('The server is just starting.') }];
  }
  return [
    {
      tone: 'warning',
      title: trans.__('The GPUs cannot be observed'),
      text: [...told, trans.__('Nothing is moved blindly. Whoever runs this server can give it access to NVML.')].join(' ')
    }
  ];
}
