/** One card a GPU: who holds how much of it. Pure. */

import type { Gpu, Kernel, Status } from '../types';
import { bytesInWords, nameIn, type Language } from './words';

export interface Segment {
  kind: 'kernel' | 'others' | 'free';
  label: string;
  share: number;
}

export interface Card {
  uuid: string;
  name: string;
  simulated: boolean;
  utilization: string | null;
  power: string | null;
  segments: Segment[];
  yours: string;
  others: string;
  free: string;
  reclaimed: string | null;
  summary: string;
}

/** One card a GPU, in the server's order. */
export function cardsOf(status: Status, language: Language): Card[] {
  return (status.gpus ?? []).map(gpu => cardOf(gpu, status.kernels, language));
}

/** Bytes that are reclaimed now: what the kernels will need again. */
export function reclaimedBytes(status: Status): number {
  return sum(status.kernels.filter(away).map(kernel => kernel.footprint_bytes));
}

/** Bytes that this server's kernels hold on GPUs now. */
export function heldBytes(status: Status): number {
  return sum((status.gpus ?? []).map(gpu => sum(status.kernels.map(kernel => bytesOn(kernel, gpu.uuid)))));
}

function cardOf(gpu: Gpu, kernels: Kernel[], { trans, units }: Language): Card {
  const inWords = (count: number): string => bytesInWords(count, units);
  const holding = kernels.map(kernel => ({ kernel, bytes: bytesOn(kernel, gpu.uuid) })).filter(({ bytes }) => bytes > 0);
  const yours = sum(holding.map(({ bytes }) => bytes));
  const others = Math.max(0, gpu.used_bytes - yours);
  const free = Math.max(0, gpu.total_bytes - Math.max(gpu.used_bytes, yours));
  const reclaimed = sum(kernels.filter(away).map(kernel => kernel.footprint[gpu.uuid] ?? 0));
  const whole = Math.max(1, gpu.total_bytes, yours + others);
  const segments: Segment[] = [
    ...holding.map(({ kernel, bytes }) => ({
      kind: 'kernel' as const,
      label: `${nameIn(kernel.label)}: ${inWords(bytes)}`,
      share: bytes / whole
    })),
    { kind: 'others', label: trans.__('Others: %1', inWords(others)), share: others / whole },
    { kind: 'free', label: trans.__('Free: %1', inWords(free)), share: free / whole }
  ];
  return {
    uuid: gpu.uuid,
    name: gpu.name,
    simulated: gpu.simulated,
    utilization: gpu.utilization === null ? null : `${Math.round(gpu.utilization * 100)} %`,
    power: gpu.power_watts === null ? null : `${Math.round(gpu.power_watts)} W`,
    segments: segments.filter(segment => segment.share > 0),
    yours: inWords(yours),
    others: inWords(others),
    free: inWords(free),
    reclaimed: reclaimed > 0 ? inWords(reclaimed) : null,
    summary: trans.__(
      '%1 of memory: yours %2, others %3, free %4',
      inWords(gpu.total_bytes),
      inWords(yours),
      inWords(others),
      inWords(free)
    )
  };
}

/** What a kernel holds on one GPU now; while bytes move or are away, only the kernel itself knows. */
function bytesOn(kernel: Kernel, gpu: string): number {
  if (kernel.phase === 'resident') {
    return kernel.footprint[gpu] ?? 0;
  }
  return kernel.gpus[gpu]?.reserved_bytes ?? 0;
}

function away(kernel: Kernel): boolean {
  return kernel.phase === 'reclaimed';
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
