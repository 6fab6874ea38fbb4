import { describe, expect, it } from 'vitest';

import { ApiProblem, type ProblemKind } from '../src/api';
import { announcements } from '../src/select/changes';
import { indicatorOf, statusBarOf } from '../src/select/indicator';
import { noticesOf } from '../src/select/notices';
import { aKernel, aReclaimedKernel, aState, aStatus, instant, language, NOW } from './worlds';

const { trans } = language;
const titles = (differs: Parameters<typeof aState>[0]) => noticesOf(aState(differs), trans).map(notice => notice.title);

describe('notices', () => {
  it('are silent while all is well', () => {
    expect(titles({})).toEqual([]);
  });

  it.each<[ProblemKind, string, string]>([
    ['unreachable', 'The server does not answer', 'Nothing is lost'],
    ['absent', 'GPU reclaim is not running on this server', 'Install jupyter_gpu_reclaim'],
    ['mismatched', 'This page and the server are of different versions', 'Reload the page'],
    ['forbidden', 'You may not see this', 'Ask whoever runs this server'],
    ['refused', 'GPU reclaim does not work at the moment', 'needs Linux']
  ])('say what to do when the server is %s', (kind, title, cure) => {
    const [notice] = noticesOf(aState({ status: null, problem: new ApiProblem(kind, 'It needs Linux.') }), trans);
    expect(notice?.title).toBe(title);
    expect(notice?.text).toContain(cure);
  });

  it('say that what is shown is old once the server is gone', () => {
    const [notice] = noticesOf(aState({ problem: new ApiProblem('unreachable', '') }), trans);
    expect(notice?.text).toContain('out of date');
  });

  it('make a dry run unmistakable, and say when all is switched off', () => {
    expect(titles({ status: aStatus([], { policy: { mode: 'dry_run' } }) })).toEqual(['Dry run: nothing is moved']);
    expect(titles({ status: aStatus([], { policy: { mode: 'off' } }) })).toEqual(['Reclaiming is switched off']);
  });

  it('tell apart no GPU, no sight of it, and not yet', () => {
    expect(titles({ status: aStatus([], { gpus: [] }) })).toEqual(['No GPU on this server']);
    expect(titles({ status: aStatus([], { gpus: null, problems: ['This user may not ask the NVIDIA driver.'] }) })).toEqual([
      'The GPUs cannot be observed'
    ]);
    expect(titles({ status: aStatus([], { gpus: null, taken_at: null }) })).toEqual(['Looking for GPUs …']);
  });

  it('show an alarm once, and every other problem', () => {
    const alarm = { id: 'a', raised_at: instant(0), label: 'gan.ipynb', detail: 'The copy has another checksum.' };
    const problems = ['Nothing is reclaimed: The copy has another checksum.', 'The log cannot be written.'];
    expect(titles({ status: aStatus([], { alarms: [alarm], problems }) })).toEqual([
      'A copy of GPU memory came out wrong',
      'Something needs a look'
    ]);
  });
});

describe('what is new', () => {
  const before = aState();
  const after = (kernel = aReclaimedKernel()) => aState({ status: aStatus([kernel]) });

  it('is said once for a kernel whose bytes have moved', () => {
    expect(announcements(before, after(), language)).toEqual(['digits.ipynb: reclaimed']);
    expect(announcements(after(), after(), language)).toEqual([]);
  });

  it('is not said for what a person sees for the first time', () => {
    expect(announcements(aState({ status: null }), after(), language)).toEqual([]);
  });
});

describe('an indicator', () => {
  const text = (kernel: Parameters<typeof indicatorOf>[0]) => indicatorOf(kernel, aStatus(), NOW, language)?.text;
  const waiting = aReclaimedKernel({ decision: { act: 'wait', kernel_id: 'k1', reason: 'no_room', position: 2 } });

  it('says what happens to the notebook, and nothing where nothing does', () => {
    expect(text(undefined)).toBeUndefined();
    expect(text(aKernel({ footprint: {}, footprint_bytes: 0 }))).toBeUndefined();
    expect(text(aKernel())).toBe('GPU 4.0 GiB');
    expect(text(aReclaimedKernel())).toBe('GPU reclaimed');
    expect(text(waiting)).toBe('GPU second in line');
  });

  it('in the status bar sums up, unless somebody waits', () => {
    expect(statusBarOf(aStatus([], { gpus: [] }), NOW, language)).toBeNull();
    expect(statusBarOf(aStatus(), NOW, language)?.text).toBe('GPU 4.0 GiB');
    expect(statusBarOf(aStatus([aReclaimedKernel()]), NOW, language)?.text).toBe('GPU 0 B · won back 4.0 GiB');
    expect(statusBarOf(aStatus([waiting]), NOW, language)?.text).toBe('digits.ipynb: second in line');
  });
});
