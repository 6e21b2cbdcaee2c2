import {svgNode} from './plot.js';
import {nearestIndex} from './smooth.js';

// How pilots learnt, over the latent frames that each of their drones has flown: the share of episodes that were done
// above, their mean return below, and a point for every kept checkpoint.
//   series: [{name, colour, curve: {step, success, return}}]
//   points: [{id, run, step, colour, best, label}]
const LEFT = 46;
const RIGHT = 14;
const TOP = 20;
const BOTTOM = 24;
const GAP = 30;
const SHARE = 0.58; // of the height, for success

const short = value => (Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`);

// About so many round values from low to high.
export function roundValues(low, high, count) {
  const raw = (high - low) / count || 1;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(factor => factor * size).find(one => one >= raw);
  const values = [];
  for (let k = Math.ceil(low / step); k * step <= high + step * 1e-6; k++) values.push(+(k * step).toPrecision(12));
  return values;
}

export function makePilotCurve(host, {onPick}) {
  const svg = host.querySelector('svg');
  const bubble = host.querySelector('.bubble');
  let series = [];
  let points = [];
  let selected = null;
  let scale = null;

  function draw() {
    const {clientWidth: width, clientHeight: height} = host;
    svg.replaceChildren();
    scale = null;
    const steps = series.flatMap(one => one.curve.step);
    if (!width || !height || !steps.length) return;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const [x0, x1] = [0, Math.max(...steps, ...points.map(point => point.step), 1)];
    const px = step => LEFT + ((step - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
    const room = height - TOP - GAP - BOTTOM;
    const middle = TOP + SHARE * room;
    const returns = series.flatMap(one => one.curve.return).filter(value => value !== null);
    const [low, high] = [Math.min(0, ...returns), Math.max(1, ...returns)];
    const success = share => middle - share * (middle - TOP);
    const gained = value => height - BOTTOM - ((value - low) / (high - low)) * (height - BOTTOM - middle - GAP);
    scale = {px, x0, x1, success, width};
    const right = width - RIGHT;
    const rule = (y, words) => {
      svgNode('line', {x1: LEFT, x2: right, y1: y, y2: y, class: 'rule'}, svg);
      svgNode('text', {x: LEFT - 7, y: y + 4, 'text-anchor': 'end'}, svg).textContent = words;
    };
    for (const share of [0, 0.5, 1]) rule(success(share), `${100 * share}%`);
    for (const value of roundValues(low, high, 3)) rule(gained(value), short(value));
    for (const step of roundValues(x0, x1, Math.max(2, Math.floor(width / 130))))
      svgNode('text', {x: px(step), y: height - 7, 'text-anchor': 'middle'}, svg).textContent = short(step);
    svgNode('text', {x: LEFT + 4, y: TOP - 7, class: 'axis'}, svg).textContent = 'Episodes done';
    svgNode('text', {x: LEFT + 4, y: middle + GAP - 7, class: 'axis'}, svg).textContent = 'Return of an episode';
    for (const {curve, colour} of series) {
      path(curve.step, curve.success, px, success, colour);
      path(curve.step, curve.return, px, gained, colour);
    }
    for (const point of points) {
      const share = valueAt(point);
      if (share === null) continue;
      const place = {cx: px(point.step), cy: success(share), r: point.best ? 6.5 : 5};
      const kinds = ['point', point.best ? 'best' : ''].join(' ');
      svgNode('circle', {...place, class: kinds, style: `--c: ${point.colour}`, 'data-id': point.id}, svg);
      if (point.id === selected) svgNode('circle', {...place, r: 10, class: 'halo'}, svg);
    }
  }
  function path(steps, values, px, y, colour) {
    let text = '';
    let pen = 'M';
    steps.forEach((step, i) => {
      if (values[i] === null) pen = 'M';
      else {
        text += `${pen}${px(step).toFixed(1)} ${y(values[i]).toFixed(1)}`;
        pen = 'L';
      }
    });
    if (text) svgNode('path', {d: text, class: 'line', style: `--c: ${colour}`}, svg);
  }
  // A checkpoint stands on its run's curve.
  function valueAt(point) {
    const curve = series.find(one => one.name === point.run)?.curve;
    if (!curve?.step.length) return point.success;
    return curve.success[nearestIndex(curve.step, point.step)] ?? point.success;
  }
  function nearest(event, reach) {
    if (!scale) return null;
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const away = point => Math.hypot(scale.px(point.step) - x, (scale.success(valueAt(point) ?? 0) - y) / 2);
    const found = points.reduce((best, point) => (best && away(best) <= away(point) ? best : point), null);
    return found && away(found) < reach ? found : null;
  }
  function say(text, x, y) {
    bubble.hidden = !text;
    if (!text) return;
    bubble.textContent = text;
    const half = bubble.offsetWidth / 2 + 4;
    bubble.style.left = `${Math.max(half, Math.min(host.clientWidth - half, x))}px`;
    bubble.style.top = `${Math.max(bubble.offsetHeight + 8, y)}px`;
  }
  function look(event) {
    if (!scale) return;
    const box = svg.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const point = nearest(event, 14);
    if (point) return say(point.label, x, y);
    const step = scale.x0 + ((x - LEFT) / (scale.width - LEFT - RIGHT)) * (scale.x1 - scale.x0);
    const lines = series.map(({name, curve}) => {
      const i = nearestIndex(curve.step, step);
      const share = curve.success[i];
      if (share === null || share === undefined) return `${name}: no episode has ended yet`;
      return `${name}, step ${curve.step[i].toLocaleString('en')}: ${Math.round(100 * share)}% done, return ${curve.return[i]?.toFixed(1) ?? '–'}`;
    });
    say(lines.join('\n'), x, y);
  }
  svg.addEventListener('pointermove', event => {
    if (event.pointerType !== 'touch') look(event);
  });
  svg.addEventListener('pointerleave', () => say(''));
  svg.addEventListener('click', event => {
    const point = nearest(event, 48);
    if (point) onPick(point.id);
  });
  new ResizeObserver(draw).observe(host);
  return {
    show(next) {
      ({series, points} = next);
      draw();
    },
    mark(id) {
      selected = id;
      draw();
    },
  };
}
