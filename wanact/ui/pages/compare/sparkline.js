// A small plot of a number over the frames of a clip; the others of the comparison stand behind it in grey.
export function sparkline(name, values, others, range) {
  const make = (tag, attributes, parent) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent?.append(node);
    return node;
  };
  const svg = make('svg', {
    viewBox: '0 0 100 30',
    preserveAspectRatio: 'none',
    class: 'spark',
    role: 'img',
    'aria-label': `${name} over the clip, from ${values[0]} to ${values[values.length - 1]}`,
  });
  const [low, high] = range;
  const span = high - low || 1;
  const line = list =>
    'M' +
    list
      .map(
        (value, i) =>
          `${((100 * i) / Math.max(1, list.length - 1)).toFixed(2)} ${(28 - (26 * (value - low)) / span).toFixed(2)}`,
      )
      .join('L');
  for (const other of others) make('path', {d: line(other), class: 'other'}, svg);
  make('path', {d: line(values), class: 'own'}, svg);
  const now = make('line', {class: 'now', y1: 0, y2: 30, x1: 0, x2: 0}, svg);
  svg.moveTo = share => {
    now.setAttribute('x1', 100 * share);
    now.setAttribute('x2', 100 * share);
  };
  return svg;
}
