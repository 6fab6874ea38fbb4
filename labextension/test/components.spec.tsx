import * as React from 'react';
import { act } from 'react';
import { createRoot, type Root } from 'react-dom/client';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { LogTable } from '../src/components/LogTable';
import { Panel, type PanelProps } from '../src/components/Panel';
import { cardsOf } from '../src/select/cards';
import { logRowOf, stepsOf } from '../src/select/log';
import { noticesOf } from '../src/select/notices';
import { rowsOf } from '../src/select/rows';
import { totalsOf } from '../src/select/totals';
import type { Status } from '../src/types';
import { aGpu, aKernel, aReclaimedKernel, aState, aStatus, aTransition, instant, language, NOW } from './worlds';

const { trans } = language;
let host: HTMLElement;
let root: Root;
let pressed: string[];

beforeEach(() => {
  host = document.body.appendChild(document.createElement('div'));
  root = createRoot(host);
  pressed = [];
});

afterEach(() => {
  act(() => root.unmount());
  host.remove();
});

function show(status: Status | null, differs: Partial<PanelProps> = {}): void {
  const state = aState({ status });
  const note = (what: string) => (row: { kernelId: string }) => void pressed.push(`${what} ${row.kernelId}`);
  act(() =>
    root.render(
      <Panel
        notices={noticesOf(state, trans)}
        totals={totalsOf(state, language)}
        cards={status ? cardsOf(status, language) : []}
        rows={status ? rowsOf(status, NOW, language) : []}
        known={status !== null}
        chart={null}
        spoken=""
        actions={{ open: note('open'), reclaim: note('reclaim'), restore: note('restore'), keep: note('keep'), unkeep: note('unkeep') }}
        showLog={() => pressed.push('log')}
        trans={trans}
        {...differs}
      />
    )
  );
}

function press(label: string): void {
  const button = [...host.querySelectorAll('button')].find(button => (button.ariaLabel ?? button.textContent) === label);
  expect(button, label).toBeDefined();
  act(() => button?.click());
}

function labels(): (string | null)[] {
  return [...host.querySelectorAll('.jp-GpuReclaim-act')].map(button => button.getAttribute('aria-label'));
}

describe('the sidebar', () => {
  it('passes every press on, with the kernel it is about', () => {
    show(aStatus([aKernel()]));
    press('digits.ipynb');
    press('Reclaim digits.ipynb now');
    press('Keep digits.ipynb on the GPU …');
    press('Log');
    show(aStatus([aReclaimedKernel({ pinned_until: instant(3600) })]));
    press('Restore digits.ipynb now');
    expect(labels()[1]).toContain('no longer');
    press(labels()[1] ?? '');
    expect(pressed).toEqual(['open k1', 'reclaim k1', 'keep k1', 'log', 'restore k1', 'unkeep k1']);
  });

  it('offers nothing for a kernel that nobody can move', () => {
    show(
      aStatus([aKernel({ managed: false, mechanism: null, label: 'ir', decision: { act: 'keep', kernel_id: 'k1', reason: 'unmanaged' } })])
    );
    expect(labels()).toEqual([]);
    expect(host.querySelector('.jp-GpuReclaim-name button')).toBeNull();
  });

  it('labels a simulated GPU as simulated, and no other', () => {
    show(aStatus([], { gpus: [aGpu(), aGpu({ uuid: 'GPU-2', name: 'Simulated GPU', simulated: true })] }));
    const cards = [...host.querySelectorAll('.jp-GpuReclaim-card')];
    expect(cards.map(card => card.textContent?.includes('simulated'))).toEqual([false, true]);
  });

  it('says the bar in words to those who cannot see it', () => {
    show(aStatus());
    expect(host.querySelector('[role=img]')?.getAttribute('aria-label')).toBe(
      '80.0 GiB of memory: yours 4.0 GiB, others 16.0 GiB, free 60.0 GiB'
    );
  });

  it('shows progress while bytes move', () => {
    show(aStatus([aReclaimedKernel({ phase: 'restoring', moved_bytes: 3, move_total_bytes: 4 })]));
    expect(host.querySelector('progress')?.value).toBe(0.75);
    show(aStatus());
    expect(host.querySelector('progress')).toBeNull();
  });

  it('claims nothing before it knows anything, and says so when there is nothing', () => {
    show(null);
    expect(host.querySelectorAll('section, dl, li')).toHaveLength(0);
    show(aStatus([]));
    expect(host.textContent).toContain('No kernel runs.');
  });

  it('makes a dry run unmistakable', () => {
    show(aStatus([], { policy: { mode: 'dry_run' } }));
    expect(host.querySelector('[data-tone=warning]')?.textContent).toContain('Dry run: nothing is moved');
  });

  it('shows a hundred kernels', () => {
    show(aStatus(Array.from({ length: 100 }, (_, i) => aKernel({ kernel_id: `k${i}`, label: `n${i}.ipynb` }))));
    expect(host.querySelectorAll('.jp-GpuReclaim-row')).toHaveLength(100);
  });

  it('speaks through a polite live region', () => {
    show(aStatus(), { spoken: 'digits.ipynb: reclaimed' });
    expect(host.querySelector('[role=status][aria-live=polite]')?.textContent).toBe('digits.ipynb: reclaimed');
  });
});

describe('the log', () => {
  it('opens an episode below its row, with its steps once they are there', () => {
    const rows = [logRowOf(aTransition(), language)];
    const render = (open: { id: string; steps: ReturnType<typeof stepsOf> | null } | null): void =>
      act(() =>
        root.render(<LogTable rows={rows} open={open} more={false} onOpen={id => pressed.push(id)} onEnd={() => undefined} trans={trans} />)
      );
    render(null);
    press('reclaimed');
    expect(pressed).toEqual(['t1']);
    render({ id: 't1', steps: null });
    expect(host.querySelector('[aria-expanded=true]')).not.toBeNull();
    render({ id: 't1', steps: stepsOf([aTransition()], 'e1', language) });
    expect(host.querySelector('.jp-GpuReclaimLog-episode')?.textContent).toContain('4.0 GiB moved · 4.0 GiB freed · in 420 ms');
  });
});
