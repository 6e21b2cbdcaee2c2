// Sums of the curve.

// A running mean that forgets: `weight` of what was, the rest of what is new; the beginning is not pulled to zero
// (Kingma & Ba 2015, bias correction). null stays null and is not counted.
export function smoothed(values, weight) {
  if (!weight) return values;
  let mean = 0;
  let counted = 0;
  return values.map(value => {
    if (value === null) return null;
    counted += 1;
    mean = weight * mean + (1 - weight) * value;
    return mean / (1 - weight ** counted);
  });
}

// The place of the value in a rising list that is nearest to the one asked for, -1 without any.
export function nearestIndex(list, wanted) {
  if (!list.length) return -1;
  let low = 0;
  let high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low > 0 && wanted - list[low - 1] < list[low] - wanted ? low - 1 : low;
}

// Where boxes of these widths begin that want to begin at `wanted`, in order, none over another, all between 0 and end.
export function spread(wanted, widths, gap, end) {
  const places = [];
  wanted.forEach((place, i) => {
    places.push(Math.max(place, i ? places[i - 1] + widths[i - 1] + gap : 0));
  });
  let limit = end;
  for (let i = places.length - 1; i >= 0; i--) {
    places[i] = Math.min(places[i], limit - widths[i]);
    limit = places[i] - gap;
  }
  return places;
}
