// What the page has measured of a flight: how many frames, how soon a key is answered, where the time goes.
const REMEMBERED = 400; // latent frames
const nothing = () => ({shown: [], keyToFrame: [], keyToPixel: [], ms: [], pending: [], pixel: null, first: 0});

export class SpeedCard {
  constructor(root, player, timewarp, handoff) {
    Object.assign(this, {player, timewarp, handoff});
    this.list = root.querySelector('.numbers');
    this.button = root.querySelector('[data-do=card]');
    this.numbers = {takeoff: 0, ...nothing()};
  }

  // A flight begins.
  restart() {
    Object.assign(this.numbers, nothing());
  }

  // The server says how long a latent frame took.
  take(ms) {
    const {numbers} = this;
    numbers.ms.push({...ms, at: performance.now()});
    if (numbers.ms.length > REMEMBERED) numbers.ms.shift();
  }

  // Milliseconds from a key to the frame that obeys it, of the newest keys.
  get latest() {
    return this.numbers.keyToFrame.slice(-5);
  }
  get latency() {
    const {latest} = this;
    return latest.length ? latest.reduce((a, b) => a + b) / latest.length : 250;
  }

  // Frames a second over the last two seconds.
  rate(seconds = 2) {
    const now = performance.now();
    const recent = this.numbers.shown.filter(time => now - time < 1000 * seconds);
    return recent.length < 3 ? null : (1000 * (recent.length - 1)) / (recent[recent.length - 1] - recent[0]);
  }

  // What was measured, in milliseconds; null where nothing was measured yet.
  measure() {
    const {numbers, player, handoff, timewarp} = this;
    const {ms, shown: times} = numbers;
    const span = ms.length > 1 ? ms[ms.length - 1].at - ms[0].at : 0;
    const steps = ms.slice(1);
    const total = name => steps.reduce((sum, one) => sum + (one[name] || 0), 0);
    const share = name => (span ? total(name) / span : null);
    const step = quantile(
      ms.map(one => one.step),
      0.5,
    );
    return {
      shown_fps: times.length > 2 ? (1000 * (times.length - 1)) / (times[times.length - 1] - times[0]) : null,
      frames_shown: times.length,
      frames_missed: player.missed,
      first_frame_ms: numbers.first || null,
      key_to_frame_ms_p50: quantile(numbers.keyToFrame, 0.5),
      key_to_frame_ms_p95: quantile(numbers.keyToFrame, 0.95),
      key_to_pixel_ms_p50: quantile(numbers.keyToPixel, 0.5),
      key_to_pixel_ms_p95: quantile(numbers.keyToPixel, 0.95),
      keys_measured: numbers.keyToFrame.length,
      engine_fps: step ? 4000 / step : null,
      share_transformer: share('transformer'),
      share_decoder: share('decoder'),
      share_other_flights: share('waited'),
      share_transport: span ? total('sent') / span : null, // until the step may go on
      handoff: handoff.summary(),
      gains: {...timewarp.gains},
    };
  }

  toggle() {
    this.list.hidden = !this.list.hidden;
    this.button.setAttribute('aria-expanded', this.list.hidden ? 'false' : 'true');
    this.show();
  }

  show() {
    if (this.list.hidden) return;
    this.list.replaceChildren(
      ...rowsOf(this.measure()).flatMap(([name, value]) => {
        const term = document.createElement('dt');
        const detail = document.createElement('dd');
        term.textContent = name;
        detail.textContent = value;
        return [term, detail];
      }),
    );
  }
}

function rowsOf(now) {
  const text = (value, unit, digits = 0) =>
    value === null || value === undefined ? '–' : value.toFixed(digits) + unit;
  const percent = value => text(value === null ? null : 100 * value, '%');
  const pair = name => `${text(now[name + '_p50'], '')} / ${text(now[name + '_p95'], ' ms')}`;
  return [
    ['Shown', text(now.shown_fps, ' frames a second', 1)],
    ['The model alone', text(now.engine_fps, ' frames a second', 1)],
    ['First frame', text(now.first_frame_ms, ' ms')],
    ['Key to frame, median / 95%', pair('key_to_frame_ms')],
    ['Key to first change, median / 95%', pair('key_to_pixel_ms')],
    [
      'Transformer, decoder, transport',
      [now.share_transformer, now.share_decoder, now.share_transport].map(percent).join(', '),
    ],
    ['Frames lost on the way', String(now.frames_missed)],
    [
      'Instant response',
      now.handoff
        ? `off by ${now.handoff.warped.toFixed(1)} of 255; without it ${now.handoff.plain.toFixed(1)} (${now.handoff.trials} keys)`
        : 'press single keys to measure it',
    ],
  ];
}

function quantile(values, share) {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}
