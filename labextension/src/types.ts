/** What the server sends, as `server/openapi.yaml` has it. Bytes are integers, instants ISO 8601 in UTC. */

export type Instant = string;
export type BytesByName = Record<string, number>;
export type Phase = 'resident' | 'reclaiming' | 'reclaimed' | 'restoring' | 'gone' | 'lost';

export interface Decision {
  act: string;
  kernel_id: string;
  reason: string;
  position?: number;
  missing?: BytesByName;
}

export interface Gpu {
  uuid: string;
  name: string;
  total_bytes: number;
  used_bytes: number;
  utilization: number | null;
  power_watts: number | null;
  simulated: boolean;
}

/** Whoever holds memory where a waiting kernel needs it; whatever is not of this server has no id. */
export interface Holder {
  kernel_id: string | null;
  label: string;
  footprint: BytesByName;
}

export interface Wait {
  since: Instant | null;
  position: number;
  reason: string;
  needed: BytesByName;
  missing: BytesByName;
  holders: Holder[];
  estimate_seconds: number | null;
}

/** Fields with a question mark came later than the first server that speaks to this page. */
export interface Kernel {
  kernel_id: string;
  label: string;
  managed: boolean;
  phase: Phase;
  phase_since: Instant | null;
  running_since: Instant | null;
  last_active_at: Instant | null;
  pinned_until: Instant | null;
  footprint: BytesByName;
  footprint_bytes: number;
  host_bytes: number;
  spilled_bytes?: number;
  gpus: Record<string, { allocated_bytes: number; reserved_bytes: number }>;
  mechanism: string | null;
  unmovable: BytesByName;
  waiting: number;
  retry_at: Instant | null;
  moved_bytes: number | null;
  move_total_bytes: number | null;
  decision: Decision;
  explanation: string;
  due_at: Instant | null;
  notes: string[];
  warned_at?: Instant | null;
  wait?: Wait | null;
}

export interface Policy {
  mode: 'on' | 'dry_run' | 'off';
  max_pin_seconds?: number;
  warn_before_seconds?: number;
  [setting: string]: unknown;
}

export interface Alarm {
  id: string;
  raised_at: Instant;
  label: string;
  detail: string;
}

export interface Status {
  taken_at: Instant | null;
  gpus: Gpu[] | null;
  problems: string[];
  alarms: Alarm[];
  policy: Policy;
  kernels: Kernel[];
}

export interface Transition {
  id: string;
  at: Instant;
  kernel_id: string;
  event: string;
  phase: Phase;
  episode_id: string | null;
  reason: string | null;
  label: string;
  owner: string;
  mechanism: string | null;
  footprint: BytesByName;
  moved_bytes: number | null;
  freed_bytes: BytesByName;
  unmovable: BytesByName;
  took_seconds: number | null;
  detail: string;
  actor: string;
  simulated: boolean;
}

export interface LogPage {
  transitions: Transition[];
  next: string | null;
}

/** What GET log may be narrowed to. */
export interface LogFilters {
  kernel_id?: string;
  notebook?: string;
  gpu?: string;
  reason?: string;
  event?: string[];
  since?: Instant;
  until?: Instant;
}

export interface GpuHistory {
  at: Instant[];
  resident_bytes: number[];
  reclaimed_bytes: number[];
  others_bytes: number[];
  total_bytes: number[];
}

export interface History {
  step_seconds: number;
  gpus: Record<string, GpuHistory>;
}

export interface WonBack {
  reclaimed_gib_hours: number;
  reclaimed_gpu_hours: number;
}

export interface Totals {
  today: WonBack;
  week: WonBack;
  since: Instant | null;
}
