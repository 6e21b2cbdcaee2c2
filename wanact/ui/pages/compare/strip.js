import {CHANNELS} from '../../web/channels.js';
import {collect, connect} from '../../web/events.js';

export function mount({element, props, trigger, watch}) {
  const {hear} = connect(element);
  const root = element.querySelector('.strip');
  const find = selector => root.querySelector(selector);
  const told = find('.told');
  const file = find('input[type=file]');
  const MAX_BYTES = 32 * 2 ** 20;
  const FLY_PLAN = 'wanact-plan';
  const trackOf = value => (Array.isArray(value) ? value : value?.flight?.actions || []);

  // ---- the plan, drawn ----------------------------------------------------------------------------------------
  function draw() {
    const value = props.value;
    const track = trackOf(value);
    const flight = value?.flight;
    const names = Object.keys(props.presets);
    const same = JSON.stringify(track);
    const preset = flight?.kind === 'live' ? null : names.find(name => JSON.stringify(props.presets[name]) === same);
    for (const button of find('.plans').children)
      button.setAttribute('aria-pressed', button.dataset.preset && button.dataset.preset === preset ? 'true' : 'false');
    let x = 0;
    let y = 0;
    let heading = 0;
    let pitch = 0;
    const points = [[0, 0]];
    for (const [, m] of track) {
      const h = (heading * Math.PI) / 180;
      const ahead = (m[0] - m[1]) * Math.cos((pitch * Math.PI) / 180);
      const aside = m[3] - m[2];
      x += ahead * Math.sin(h) + aside * Math.cos(h);
      y += ahead * Math.cos(h) - aside * Math.sin(h);
      heading += m[5] - m[4];
      pitch += m[6] - m[7];
      points.push([x, y]);
    }
    const xs = points.map(p => p[0]);
    const ys = points.map(p => p[1]);
    const span = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys), 0.3);
    const cx = (Math.max(...xs) + Math.min(...xs)) / 2;
    const cy = (Math.max(...ys) + Math.min(...ys)) / 2;
    const at = p => [50 + ((p[0] - cx) / span) * 66, 54 - ((p[1] - cy) / span) * 66];
    find('.way').setAttribute(
      'd',
      'M' +
        points
          .map(p =>
            at(p)
              .map(v => v.toFixed(1))
              .join(' '),
          )
          .join('L'),
    );
    find('.start').setAttribute('cx', at(points[0])[0]);
    find('.start').setAttribute('cy', at(points[0])[1]);
    const last = at(points[points.length - 1]);
    find('.end').setAttribute(
      'transform',
      `translate(${last[0].toFixed(1)} ${last[1].toFixed(1)}) rotate(${heading.toFixed(1)})`,
    );
    const keys = find('.keys');
    const count = Math.max(1, track.length);
    const parts = [];
    keys.setAttribute('viewBox', `0 0 ${count} 8`);
    for (let c = 1; c < 8; c++) parts.push(`<line x1="0" x2="${count}" y1="${c}" y2="${c}"/>`);
    for (const [t, [on]] of track.entries())
      on.forEach((held, c) => {
        if (held)
          parts.push(`<rect class="${CHANNELS[c].group}" x="${t + 0.04}" y="${c + 0.12}" width="0.92" height="0.76"/>`);
      });
    keys.innerHTML = parts.join('');
    const held = CHANNELS.filter((_, c) => track.some(([on]) => on[c])).map(channel => channel.label.toLowerCase());
    keys.setAttribute('aria-label', `The controls over ${track.length} steps: ${held.join(', ') || 'none'}`);
  }
  function lay(value, text) {
    props.value = value;
    told.textContent = text || '';
    draw();
    trigger('input');
  }

  // ---- where plans come from ------------------------------------------------------------------------------------
  const addButton = (label, data, own) => {
    const button = document.createElement('button');
    Object.assign(button, {type: 'button', textContent: label, className: own ? 'own' : ''});
    Object.assign(button.dataset, data);
    find('.plans').append(button);
  };
  for (const name of Object.keys(props.presets)) addButton(name, {preset: name});
  addButton('Your plan', {do: 'fly'}, true);
  addButton('Open flight or comparison…', {do: 'open'}, true);
  find('.plans').addEventListener('click', event => {
    const {preset, do: what} = event.target.dataset;
    if (preset) lay(props.presets[preset]);
    else if (what === 'open') file.click();
    else if (what === 'fly') {
      let plan = null;
      try {
        plan = JSON.parse(sessionStorage.getItem(FLY_PLAN));
      } catch {
        /* none */
      }
      if (Array.isArray(plan) && plan.length === props.steps) lay(plan, 'The plan that stands on Plan a clip now.');
      else told.textContent = 'The plan on Plan a clip is as it came; change it there first.';
    }
  });
  let before = props.value;
  function open(what) {
    if (!props.value?.open) before = props.value;
    props.value = {open: what};
    told.textContent = 'Opening…';
    trigger('open');
  }
  file.addEventListener('change', async () => {
    const chosen = file.files[0];
    file.value = '';
    if (!chosen) return;
    if (chosen.size > MAX_BYTES) {
      told.textContent = `${chosen.name} has ${(chosen.size / 2 ** 20).toFixed(0)} MB; up to 32 MB are read.`;
      return;
    }
    open({text: await chosen.text()});
  });
  // A flight comes by its address on this server.
  async function fetchFlight() {
    const url = collect('compare-flight');
    if (!url) return;
    try {
      const answer = await fetch(new URL(url, location.href));
      if (!answer.ok) throw new Error(answer.status);
      open({text: await answer.text()});
    } catch {
      told.textContent = 'The flight could not be read any more; save it and open the file.';
    }
  }
  hear('compare-flight', fetchFlight);
  setTimeout(fetchFlight, 400);
  // What was refused leaves an error in a corner of the page, and the plan as it was.
  hear('open-failed', () => {
    props.value = before;
    told.textContent = 'It was not opened; everything is as it was.';
    draw();
  });
  watch('value', () => {
    if (props.value?.open) return;
    told.textContent = props.value?.flight
      ? describe(props.value.flight)
      : told.textContent.startsWith('Opening')
        ? ''
        : told.textContent;
    draw();
  });
  function describe(flight) {
    const seconds = ((flight.size?.num_frames || 1) - 1) / (flight.size?.fps || 16);
    return `${flight.kind === 'live' ? 'A live flight' : 'A flight'} of ${seconds.toFixed(1)} s, opened from its record.`;
  }
  const wanted = new URLSearchParams(location.search).get('compare');
  if (wanted) setTimeout(() => open({link: wanted}), 600);
  draw();
}
