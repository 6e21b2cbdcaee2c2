import {TRAY_LETTERS} from '../compare/tray.js';
import {nearestIndex, smoothed, spread} from './smooth.js';

// Loss (left axis) and learning rate (dashed, right axis) over steps as an SVG, with a point for every checkpoint; under
// it, on the same steps, their control where it was measured, and what they draw. A click anywhere picks the nearest
// point; on the keyboard the arrows walk from point to point and Enter picks.
//   series: [{name, colour, curve: {step, loss, learning_rate}}]
//   points: [{id, run, step, loss, control, worst, quick, colour, best, bad, label}]
export function makeCurve(host, {onPick, onFrame}) {
  const svg = host.querySelector('svg');
  const bubble = host.querySelector('.bubble');
  const make = (name, attributes, parent) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent?.append(node);
    return node;
  };
  let series = [];
  let points = [];
  let picked = [];
  let selected = null;
  let log = false;
  let smoothing = 0.6;
  let frames = [];
  let now = null;
  let scale = null;
  let cross = null;
  let placed = [];
  let cursor = -1;

  function range(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return [low, high];
  }
  function ticks(low, high, count) {
    const raw = (high - low) / count || 1;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map(factor => factor * size).find(step => step >= raw);
    const list = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step)
      list.push(+value.toPrecision(12));
    return list;
  }
  const short = value =>
    value >= 1e6
      ? +(value / 1e6).toPrecision(3) + 'M'
      : value >= 1e4
        ? +(value / 1e3).toPrecision(3) + 'k'
        : +value.toPrecision(3) + '';

  // A checkpoint without a loss of its own stands on its run's curve.
  function lossAt(point) {
    if (point.loss !== null) return point.loss;
    const curve = series.find(one => one.name === point.run)?.curve;
    if (!curve) return null;
    let best = null;
    curve.step.forEach((step, i) => {
      if (
        curve.loss[i] !== null &&
        (best === null || Math.abs(step - point.step) < Math.abs(curve.step[best] - point.step))
      )
        best = i;
    });
    return best === null ? null : curve.loss[best];
  }

  // ---- the bands: loss above, control under it on the same steps, and what the steps draw ---------------------------
  const CONTROL = 112;
  const FRAMES = 62;
  const TOP = 12;
  const BOTTOM = 24;

  function draw() {
    const shown = points
      .map(point => ({point, loss: lossAt(point)}))
      .filter(one => (one.loss !== null && (!log || one.loss > 0)) || one.point.control !== null);
    const carded = shown.filter(one => one.point.control !== null);
    const losses = [...series.flatMap(one => one.curve.loss), ...shown.map(one => one.loss)].filter(
      value => value !== null && (!log || value > 0),
    );
    host.classList.toggle('no-loss', !losses.length && !log);
    host.style.setProperty('--control', carded.length ? `${CONTROL}px` : '0px');
    host.style.setProperty('--frames', frames.length ? `${FRAMES}px` : '0px');
    const width = host.clientWidth;
    const height = host.clientHeight;
    svg.replaceChildren();
    placed = [];
    scale = null;
    if (!width || !height) return;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    if (!losses.length)
      make('text', {x: width / 2, y: carded.length ? TOP + 16 : height / 2, class: 'nothing'}, svg).textContent =
        points.length ? 'No log was kept, so there is no loss to draw.' : 'No losses to draw: no run is chosen.';
    if (!losses.length && !carded.length) return;
    const steps = [...series.flatMap(one => one.curve.step), ...shown.map(one => one.point.step)];
    const rates = series.flatMap(one => one.curve.learning_rate).filter(value => value !== null);
    const left = 46;
    const right = rates.length ? 48 : 14;
    let [x0, x1] = range(steps);
    const theOnly = x0 === x1 ? [x0] : null;
    if (theOnly) {
      x0 -= 1;
      x1 += 1;
    }
    const px = step => left + ((step - x0) / (x1 - x0)) * (width - left - right);
    const below = (carded.length ? CONTROL : 0) + (frames.length ? FRAMES : 0);
    const area = {left, right: width - right, top: TOP, bottom: height - BOTTOM - below};
    const control = {...area, top: area.bottom + 28, bottom: area.bottom + CONTROL - 6};
    scale = {x0, x1, left, right: area.right, top: losses.length ? TOP : control.top, bottom: height - BOTTOM, px};
    for (const value of theOnly || ticks(x0, x1, Math.max(2, Math.floor(width / 130))))
      make('text', {x: px(value), y: height - 7, 'text-anchor': 'middle'}, svg).textContent = short(value);
    if (losses.length) drawLosses(shown, losses, rates, area, px);
    if (carded.length) drawControl(carded, control, px);
    if (frames.length) drawFrames(height - BOTTOM - FRAMES + 8, px);
    drawMarks(px);
    cross = make('line', {y1: scale.top, y2: height - BOTTOM, class: 'cross', visibility: 'hidden'}, svg);
  }

  function rule(area, y, words) {
    make('line', {x1: area.left, x2: area.right, y1: y, y2: y, class: 'rule'}, svg);
    make('text', {x: area.left - 7, y: y + 4, 'text-anchor': 'end'}, svg).textContent = words;
  }
  function path(steps, values, px, y, name, colour) {
    let text = '';
    let pen = 'M';
    steps.forEach((step, i) => {
      if (values[i] === null) {
        pen = 'M';
        return;
      }
      text += pen + px(step).toFixed(1) + ' ' + y(values[i]).toFixed(1);
      pen = 'L';
    });
    if (text) make('path', {d: text, class: name, style: `--c: ${colour}`}, svg);
  }
  function dot(point, x, y, radius) {
    const kinds = ['point', point.best ? 'best' : '', point.bad ? 'bad' : ''].join(' ');
    const place = {cx: x.toFixed(1), cy: y.toFixed(1), r: point.best ? radius + 1.5 : radius};
    return make('circle', {...place, class: kinds, style: `--c: ${point.colour}`, 'data-id': point.id}, svg);
  }
  const sizeOf = many => (many > 160 ? 2.6 : many > 60 ? 3.6 : 5);

  function drawLosses(shown, losses, rates, area, px) {
    const [low, high] = range(losses);
    const scaled = value => (log ? Math.log10(value) : value);
    let y0 = scaled(low);
    let y1 = scaled(high);
    const margin = (y1 - y0 || Math.abs(y1) || 1) * 0.07;
    y0 -= margin;
    y1 += margin;
    if (!log && y0 < 0 && low >= 0) y0 = 0;
    const py = loss => area.top + ((y1 - scaled(loss)) / (y1 - y0)) * (area.bottom - area.top);
    const lossTicks = log
      ? [...new Set([...ticks(y0, y1, 4).map(value => +(10 ** value).toPrecision(2))])]
      : ticks(y0, y1, 4);
    for (const value of lossTicks) {
      const y = py(value);
      if (y >= area.top - 1 && y <= area.bottom + 1) rule(area, y, short(value));
    }
    if (rates.length) {
      const peak = Math.max(...rates) || 1;
      const rateY = rate => area.top + (1 - rate / peak) * (area.bottom - area.top);
      for (const share of [0, 0.5, 1])
        make('text', {x: area.right + 6, y: rateY(share * peak) + 4}, svg).textContent = share
          ? (share * peak).toExponential(0)
          : '0';
      for (const one of series) path(one.curve.step, one.curve.learning_rate, px, rateY, 'rate', one.colour);
    }
    for (const one of series) {
      const values = one.curve.loss.map(value => (value !== null && log && value <= 0 ? null : value));
      if (smoothing) path(one.curve.step, values, px, py, 'raw', one.colour);
      path(one.curve.step, smoothed(values, smoothing), px, py, 'line', one.colour);
    }
    const drawn = shown.filter(one => one.loss !== null && (!log || one.loss > 0));
    for (const {point, loss} of drawn) {
      placed.push({point, x: px(point.step), y: py(loss), main: true});
      dot(point, px(point.step), py(loss), sizeOf(drawn.length));
    }
  }

  // Control is a share: its axis is always whole, and chance is half. The dashed line is the channel that obeys least.
  function drawControl(carded, area, px) {
    const py = share => area.top + (1 - share) * (area.bottom - area.top);
    for (const share of [0, 0.5, 1]) rule(area, py(share), `${100 * share}%`);
    // Above the ring around a point of the whole 100%.
    make('text', {x: area.left + 4, y: area.top - 14, class: 'axis'}, svg).textContent = 'Control';
    make('text', {x: area.left + 56, y: area.top - 14}, svg).textContent =
      area.right - area.left > 380 ? 'dashed: worst channel · half is chance' : 'dashed: worst channel';
    const byRun = new Map();
    for (const {point} of carded) byRun.set(point.run, [...(byRun.get(point.run) || []), point]);
    for (const list of byRun.values()) {
      const inOrder = list.sort((a, b) => a.step - b.step);
      const steps = inOrder.map(point => point.step);
      path(
        steps,
        inOrder.map(point => point.worst),
        px,
        py,
        'worst',
        inOrder[0].colour,
      );
      path(
        steps,
        inOrder.map(point => point.control),
        px,
        py,
        'line',
        inOrder[0].colour,
      );
    }
    const onLoss = new Set(placed.map(one => one.point));
    for (const {point} of carded) {
      placed.push({point, x: px(point.step), y: py(point.control), main: !onLoss.has(point)});
      const node = dot(point, px(point.step), py(point.control), sizeOf(carded.length) - 1);
      node.classList.replace('point', 'carded');
      if (point.quick) node.classList.add('bad');
    }
  }

  // What the steps draw, each under its step as far as its neighbours let it, small enough for all of them.
  function drawFrames(top, px) {
    const inOrder = [...frames].sort((a, b) => a.step - b.step);
    const shrink = Math.min(1, (host.clientWidth - 4) / inOrder.reduce((sum, frame) => sum + frame.width + 4, 0));
    const widths = inOrder.map(frame => frame.width * shrink);
    const lefts = spread(
      inOrder.map((frame, i) => px(frame.step) - widths[i] / 2),
      widths,
      4 * shrink,
      host.clientWidth,
    );
    inOrder.forEach((frame, i) => {
      const place = {x: lefts[i], y: top, width: widths[i], height: frame.height * shrink};
      const middle = lefts[i] + widths[i] / 2;
      make('line', {x1: px(frame.step), x2: middle, y1: top - 8, y2: top, class: 'stem'}, svg);
      const image = make('image', {...place, href: frame.url, class: 'frame', style: `--c: ${frame.colour}`}, svg);
      make('title', {}, image).textContent = frame.label;
      image.dataset.frame = frame.id;
    });
  }

  function drawMarks(px) {
    if (now !== null) make('line', {x1: px(now), x2: px(now), y1: scale.top, y2: scale.bottom, class: 'playing'}, svg);
    for (const {point, x, y, main} of placed) {
      if (!main) continue;
      if (point.id === selected) {
        make('line', {x1: x, x2: x, y1: scale.top, y2: scale.bottom, class: 'here'}, svg);
        make('circle', {cx: x, cy: y, r: 10, class: 'halo'}, svg);
      }
      const letter = picked.indexOf(point.id);
      if (letter < 0) continue;
      const above = y > TOP + 30 ? y - 20 : y + 20;
      make('circle', {cx: x, cy: above, r: 9, class: 'letter', 'data-letter': TRAY_LETTERS[letter]}, svg);
      make('text', {x, y: above + 4}, svg).textContent = TRAY_LETTERS[letter];
    }
  }

  // What every run has at the step under the pointer: its loss as it was and smoothed, and its learning rate.
  function valuesAt(x) {
    if (!scale || x < scale.left - 4 || x > scale.right + 4) return null;
    const step = Math.round(scale.x0 + ((x - scale.left) / (scale.right - scale.left)) * (scale.x1 - scale.x0));
    const lines = series.map(one => {
      const i = nearestIndex(one.curve.step, step);
      const loss = i < 0 ? null : one.curve.loss[i];
      if (loss === null || step < one.curve.step[0] || step > one.curve.step[one.curve.step.length - 1]) return '';
      const mean = smoothing ? `, smoothed ${smoothed(one.curve.loss, smoothing)[i].toFixed(4)}` : '';
      const rate = one.curve.learning_rate[i];
      return `${one.name}: loss ${loss.toFixed(4)}${mean}${rate === null ? '' : `, rate ${rate.toExponential(1)}`}`;
    });
    return {step, text: [`step ${step.toLocaleString('en')}`, ...lines.filter(Boolean)].join('\n')};
  }

  function nearest(event, reach) {
    const box = svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    let best = null;
    let distance = reach * reach;
    for (const one of placed) {
      const away = (one.x - x) ** 2 + ((one.y - y) / 2) ** 2; // along the curve counts more than across
      if (away < distance) {
        distance = away;
        best = one;
      }
    }
    return best;
  }
  function say(text, x, y) {
    bubble.hidden = !text;
    if (!text) return;
    bubble.textContent = text;
    const half = bubble.offsetWidth / 2 + 4;
    bubble.style.left = Math.max(half, Math.min(host.clientWidth - half, x)) + 'px';
    bubble.style.top = Math.max(bubble.offsetHeight + 8, y) + 'px';
  }
  const tell = one => say(one?.point.label, one?.x, one?.y);
  // Near a checkpoint its own words; elsewhere the values of every run at that step.
  function look(event) {
    const one = nearest(event, 16);
    const box = svg.getBoundingClientRect();
    const x = event.clientX - box.left;
    const values = one ? null : valuesAt(x);
    cross?.setAttribute('visibility', values ? 'visible' : 'hidden');
    for (const name of ['x1', 'x2']) cross?.setAttribute(name, x);
    if (values) say(values.text, x, event.clientY - box.top);
    else tell(one);
  }
  svg.addEventListener('pointermove', event => {
    if (event.pointerType !== 'touch') look(event);
  });
  svg.addEventListener('pointerleave', () => {
    cross?.setAttribute('visibility', 'hidden');
    tell(null);
  });
  svg.addEventListener('click', event => {
    const drawn = event.target.dataset.frame;
    if (drawn) return onFrame(drawn);
    const one = nearest(event, 48);
    if (!one) {
      if (event.pointerType === 'touch') look(event);
      return;
    }
    cursor = placed.indexOf(one);
    onPick(one.point.id);
    if (event.pointerType === 'touch') {
      tell(one);
      setTimeout(() => tell(null), 1800);
    }
  });
  svg.tabIndex = 0;
  svg.addEventListener('keydown', event => {
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (by && placed.length) {
      const inOrder = placed.filter(one => one.main).sort((a, b) => a.x - b.x);
      const now = inOrder.indexOf(placed[cursor]);
      const next =
        inOrder[Math.max(0, Math.min(inOrder.length - 1, now < 0 ? (by > 0 ? 0 : inOrder.length - 1) : now + by))];
      cursor = placed.indexOf(next);
      tell(next);
    } else if (event.key === 'Enter' && placed[cursor]) onPick(placed[cursor].point.id);
    else return;
    event.preventDefault();
  });
  svg.addEventListener('blur', () => tell(null));
  new ResizeObserver(draw).observe(host);
  return {
    show(next) {
      ({series, points} = next);
      draw();
    },
    mark(ids, id) {
      picked = ids;
      selected = id;
      draw();
    },
    setLog(on) {
      log = on;
      draw();
    },
    setSmoothing(weight) {
      smoothing = weight;
      draw();
    },
    // What the steps draw: [{id, step, url, width, height, colour, label}]; and the step that is playing, or null.
    showFrames(next) {
      if (!next.length && !frames.length) return;
      frames = next;
      draw();
    },
    play(step) {
      if (now === step) return;
      now = step;
      draw();
    },
  };
}
