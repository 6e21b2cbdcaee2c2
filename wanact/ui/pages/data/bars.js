import {CHANNELS, channelIcon} from '../../web/channels.js';
import {svgNode} from '../checkpoints/plot.js';

// Small histograms as SVG, and the table of channels that stand together.
const WIDTH = 200;
const HEIGHT = 66;
const BINS = 24;

export const compact = value => (value === null ? '–' : `${+value.toPrecision(2)}`);
const percent = share => `${share > 0 && share < 0.005 ? '<1' : Math.round(100 * share)}%`;

function figure(className, title, note, icon) {
  const node = document.createElement('figure');
  node.className = `chart ${className}`;
  const caption = document.createElement('figcaption');
  if (icon) caption.append(icon);
  caption.append(Object.assign(document.createElement('b'), {textContent: title}));
  caption.append(Object.assign(document.createElement('span'), {textContent: note}));
  node.append(caption);
  return node;
}
function draw(node, counts, low, high, {range, middle, label}) {
  const svg = svgNode('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: 'none',
    role: 'img',
    'aria-label': label,
  });
  const px = value => ((Math.max(low, Math.min(high, value)) - low) / (high - low || 1)) * WIDTH;
  if (range)
    svgNode('rect', {x: px(range[0]), width: px(range[1]) - px(range[0]), y: 0, height: HEIGHT, class: 'range'}, svg);
  const most = Math.max(1, ...counts);
  const step = WIDTH / counts.length;
  counts.forEach((count, i) => {
    if (!count) return;
    const height = Math.max(1.5, (count / most) * (HEIGHT - 4));
    svgNode('rect', {x: i * step + 0.5, width: step - 1, y: HEIGHT - height, height}, svg);
  });
  if (middle) svgNode('line', {x1: px(middle), x2: px(middle), y1: 0, y2: HEIGHT, class: 'middle'}, svg);
  const scale = Object.assign(document.createElement('div'), {className: 'scale'});
  for (const value of [low, high])
    scale.append(Object.assign(document.createElement('span'), {textContent: compact(value)}));
  node.append(svg, scale);
  return node;
}

// One channel: how much of it is asked, beside what models have seen.
export function channelChart(row, number) {
  const {group, label} = CHANNELS[number];
  const node = figure(group, label, percent(row.share), channelIcon(number));
  const beyond = row.beyond ? `, ${row.beyond} beyond` : '';
  const words = `${label} is held ${percent(row.share)} of the time: median ${compact(row.median)}, models have seen ${row.low} to ${row.high}${beyond}`;
  node.title = words;
  return draw(node, row.counts, 0, row.top, {range: [row.low, row.high], middle: row.middle, label: words});
}

// What is measured of each clip: a number each, null where nobody has looked.
export function clipChart(title, values, digits) {
  const known = values.filter(value => value !== null);
  const sorted = [...known].sort((a, b) => a - b);
  const low = sorted[0] ?? 0;
  const high = sorted[sorted.length - 1] ?? 1;
  const counts = Array(BINS).fill(0);
  for (const value of known) counts[Math.min(BINS - 1, Math.floor(((value - low) / (high - low || 1)) * BINS))]++;
  const middle = sorted[Math.floor(sorted.length / 2)] ?? null;
  const node = figure('', title, middle === null ? 'not looked at yet' : `median ${middle.toFixed(digits)}`);
  return draw(node, counts, low, high, {
    label: `${title} of ${known.length} clips, ${compact(low)} to ${compact(high)}`,
  });
}

export function togetherTable(shares) {
  const table = document.createElement('table');
  const heading = number => {
    const cell = document.createElement('th');
    cell.className = CHANNELS[number].group;
    cell.scope = 'col';
    cell.title = CHANNELS[number].label;
    cell.append(channelIcon(number));
    cell.setAttribute('aria-label', CHANNELS[number].label);
    return cell;
  };
  const top = document.createElement('tr');
  top.append(document.createElement('td'), ...shares.map((_, i) => heading(i)));
  top.firstElementChild.style.background = 'none';
  table.append(top);
  shares.forEach((row, i) => {
    const line = document.createElement('tr');
    const head = heading(i);
    head.scope = 'row';
    line.append(head);
    row.forEach((share, j) => {
      const cell = document.createElement('td');
      cell.textContent = share ? percent(share) : '·';
      cell.className = i === j ? 'self' : '';
      cell.title = i === j ? `${CHANNELS[i].label} is held` : `${CHANNELS[i].label} with ${CHANNELS[j].label}`;
      cell.style.setProperty('--share', Math.round(160 * share));
      line.append(cell);
    });
    table.append(line);
  });
  return table;
}
