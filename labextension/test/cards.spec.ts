import { describe, expect, it } from 'vitest';

import { cardsOf, heldBytes, reclaimedBytes } from '../src/select/cards';
import { seriesOf, totalsOf } from '../src/select/totals';
import { aGpu, aKernel, aReclaimedKernel, aState, aStatus, GIB, GPU, instant, language } from './worlds';

describe('a card', () => {
  const kernels = [aKernel(), aReclaimedKernel({ kernel_id: 'k2', footprint: { [GPU]: 6 * GIB }, footprint_bytes: 6 * GIB })];

  it('shares the memory out among kernels, others and what is free, to the last byte', () => {
    const [card] = cardsOf(aStatus(kernels), language);
    expect(card).toMatchObject({ yours: '4.0 GiB', others: '16.0 GiB', free: '60.0 GiB', reclaimed: '6.0 GiB', simulated: false });
    expect(card?.segments.map(segment => [segment.kind, segment.share])).toEqual([
      ['kernel', 4 / 80],
      ['others', 16 / 80],
      ['free', 60 / 80]
    ]);
    expect(card?.summary).toContain('yours 4.0 GiB');
  });

  it('counts what is still on the GPU while bytes move', () => {
    const moving = aKernel({ phase: 'reclaiming', gpus: { [GPU]: { allocated_bytes: GIB, reserved_bytes: GIB } } });
    expect(cardsOf(aStatus([moving]), language)[0]?.yours).toBe('1.0 GiB');
  });

  it('never shows less than nothing, though two looks at the same GPU may disagree', () => {
    const [card] = cardsOf(aStatus([aKernel()], { gpus: [aGpu({ used_bytes: 0, total_bytes: 2 * GIB })] }), language);
    expect(card).toMatchObject({ others: '0 B', free: '0 B' });
    expect(card?.segments.every(segment => segment.share >= 0 && segment.share <= 1)).toBe(true);
  });

  it('leaves out what is not known', () => {
    expect(cardsOf(aStatus([], { gpus: [aGpu({ utilization: null, power_watts: null })] }), language)[0]).toMatchObject({
      utilization: null,
      power: null,
      reclaimed: null
    });
    expect(cardsOf(aStatus([], { gpus: null }), language)).toEqual([]);
  });

  it('adds up what is held and what was won back', () => {
    expect(heldBytes(aStatus(kernels))).toBe(4 * GIB);
    expect(reclaimedBytes(aStatus(kernels))).toBe(6 * GIB);
  });
});

describe('totals', () => {
  it('show what is won back now without any history, and by day and week with it', () => {
    expect(totalsOf(aState({ status: null }), language)).toEqual([]);
    expect(totalsOf(aState(), language).map(total => total.value)).toEqual(['0 B']);
    const totals = {
      today: { reclaimed_gib_hours: 80, reclaimed_gpu_hours: 1 },
      week: { reclaimed_gib_hours: 4880, reclaimed_gpu_hours: 61 },
      since: instant(-1)
    };
    const shown = totalsOf(aState({ status: aStatus([aReclaimedKernel()]), totals }), language);
    expect(shown.map(total => total.value)).toEqual(['4.0 GiB', '1.0 GPU-h', '61.0 GPU-h']);
  });
});

describe('a chart', () => {
  const gpu = (at: number[], reclaimed: number[]) => ({
    at: at.map(instant),
    resident_bytes: reclaimed.map(() => GIB),
    reclaimed_bytes: reclaimed,
    others_bytes: reclaimed.map(() => 0),
    total_bytes: reclaimed.map(() => 80 * GIB)
  });

  it('adds GPUs up and breaks where nothing was observed', () => {
    const history = { step_seconds: 10, gpus: { a: gpu([0, 10, 60], [1, 2, 3]), b: gpu([10, 60], [5, 7]) } };
    const series = seriesOf(history);
    const start = Date.parse(instant(0)) / 1000;
    expect(series?.at).toEqual([start, start + 10, start + 20, start + 60]);
    expect(series?.reclaimed).toEqual([1, 7, null, 10]);
    expect(series?.resident).toEqual([GIB, 2 * GIB, null, 2 * GIB]);
  });

  it('is not drawn from nothing', () => {
    expect(seriesOf(null)).toBeNull();
    expect(seriesOf({ step_seconds: 10, gpus: {} })).toBeNull();
  });
});
