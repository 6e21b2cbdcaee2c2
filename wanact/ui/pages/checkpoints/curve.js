import {TRAY_LETTERS} from '../compare/tray.js';

// Loss (left axis) and learning rate (dashed, right axis) over steps as an SVG, with a point for every checkpoint. A
// click anywhere picks the nearest point; on the keyboard the arrows walk from point to point and Enter picks.
//   series: [{name, colour, curve: {step, loss, learning_rate}}], points: [{id, step, loss, colour, best, bad, label}]
export function makeCurve(host, {onPick}) {
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

  function draw() {
    const width = host.clientWidth;
    const height = host.clientHeight;
    svg.replaceChildren();
    placed = [];
    if (!width || !height) return;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const shown = points
      .map(point => ({point, loss: lossAt(point)}))
      .filter(one => one.loss !== null && (!log || one.loss > 0));
    const losses = [...series.flatMap(one => one.curve.loss), ...shown.map(one => one.loss)].filter(
      value => value !== null && (!log || value > 0),
    );
    const steps = [...series.flatMap(one => one.curve.step), ...shown.map(one => one.point.step)];
    if (!losses.length) {
      make('text', {x: width / 2, y: height / 2, class: 'nothing'}, svg).textContent =
        'No losses to draw: the runs have no log, or none is chosen.';
      return;
    }
    const rates = series.flatMap(one => one.curve.learning_rate).filter(value => value !== null);
    const left = 46;
    const right = rates.length ? 48 : 14;
    const top = 12;
    const bottom = 24;
    let [x0, x1] = range(steps);
    const [low, high] = range(losses);
    if (x0 === x1) {
      x0 -= 1;
      x1 += 1;
    }
    const scaled = value => (log ? Math.log10(value) : value);
    let y0 = scaled(low);
    let y1 = scaled(high);
    const margin = (y1 - y0 || Math.abs(y1) || 1) * 0.07;
    y0 -= margin;
    y1 += margin;
    if (!log && y0 < 0 && low >= 0) y0 = 0;
    const px = step => left + ((step - x0) / (x1 - x0)) * (width - left - right);
    const py = loss => top + ((y1 - scaled(loss)) / (y1 - y0)) * (height - top - bottom);

    const lossTicks = log
      ? [...new Set([...ticks(y0, y1, 4).map(value => +(10 ** value).toPrecision(2))])]
      : ticks(y0, y1, 4);
    for (const value of lossTicks) {
      const y = py(value);
      if (y < top - 1 || y > height - bottom + 1) continue;
      make('line', {x1: left, x2: width - right, y1: y, y2: y, class: 'rule'}, svg);
      make('text', {x: left - 7, y: y + 4, 'text-anchor': 'end'}, svg).textContent = short(value);
    }
    for (const value of ticks(x0, x1, Math.max(2, Math.floor(width / 130))))
      make('text', {x: px(value), y: height - 7, 'text-anchor': 'middle'}, svg).textContent = short(value);
    if (rates.length) {
      const peak = Math.max(...rates) || 1;
      const rateY = rate => top + (1 - rate / peak) * (height - top - bottom);
      for (const share of [0, 0.5, 1])
        make('text', {x: width - right + 6, y: rateY(share * peak) + 4}, svg).textContent = share
          ? (share * peak).toExponential(0)
          : '0';
      for (const one of series) path(one, one.curve.learning_rate, rateY, 'rate');
    }
    for (const one of series) path(one, one.curve.loss, py, 'line');
    function path(one, values, y, name) {
      let text = '';
      let pen = 'M';
      one.curve.step.forEach((step, i) => {
        const value = values[i];
        if (value === null || (name === 'line' && log && value <= 0)) {
          pen = 'M';
          return;
        }
        text += pen + px(step).toFixed(1) + ' ' + y(value).toFixed(1);
        pen = 'L';
      });
      if (text) make('path', {d: text, class: name, style: `--c: ${one.colour}`}, svg);
    }
    const radius = shown.length > 160 ? 2.6 : shown.length > 60 ? 3.6 : 5;
    for (const {point, loss} of shown) {
      const x = px(point.step);
      const y = py(loss);
      placed.push({point, x, y, loss});
      const kinds = ['point', point.best ? 'best' : '', point.bad ? 'bad' : ''].join(' ');
      make(
        'circle',
        {
          cx: x.toFixed(1),
          cy: y.toFixed(1),
          r: point.best ? radius + 1.5 : radius,
          class: kinds,
          style: `--c: ${point.colour}`,
          'data-id': point.id,
        },
        svg,
      );
    }
    for (const {point, x, y} of placed) {
      if (point.id === selected) {
        make('line', {x1: x, x2: x, y1: top, y2: height - bottom, class: 'here'}, svg);
        make('circle', {cx: x, cy: y, r: radius + 5, class: 'halo'}, svg);
      }
      const letter = picked.indexOf(point.id);
      if (letter < 0) continue;
      const above = y > top + 30 ? y - 20 : y + 20;
      make('circle', {cx: x, cy: above, r: 9, class: 'letter', 'data-letter': TRAY_LETTERS[letter]}, svg);
      make('text', {x, y: above + 4}, svg).textContent = TRAY_LETTERS[letter];
    }
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
  function tell(one) {
    bubble.hidden = !one;
    if (!one) return;
    bubble.textContent = one.point.label;
    bubble.style.left = Math.max(110, Math.min(host.clientWidth - 110, one.x)) + 'px';
    bubble.style.top = Math.max(40, one.y) + 'px';
  }
  svg.addEventListener('pointermove', event => {
    if (event.pointerType !== 'touch') tell(nearest(event, 40));
  });
  svg.addEventListener('pointerleave', () => tell(null));
  svg.addEventListener('click', event => {
    const one = nearest(event, 48);
    if (!one) return;
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
      const inOrder = [...placed].sort((a, b) => a.x - b.x);
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
  };
}
