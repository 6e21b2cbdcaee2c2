// Where a visitor is, in the address: ?tab=plan&start=coast. A place is called there as on its tab; the ids within this
// program are older.
const NAMES = {live: 'fly', fly: 'plan'};
const PLACES = Object.fromEntries(Object.entries(NAMES).map(([place, name]) => [name, place]));

// The place that an address asks for; null where it leaves that to the page. A link to a comparison or to a shared
// flight names none.
export function placeIn(search) {
  const asked = new URLSearchParams(search);
  const name = asked.get('tab');
  if (name) return PLACES[name] || name;
  if (asked.has('flight')) return 'live';
  return asked.has('compare') ? 'compare' : null;
}

// The sample that an address asks for as the first frame of a place, or null.
export function startIn(search, place) {
  return placeIn(search) === place ? new URLSearchParams(search).get('start') : null;
}

// Whether an address says of a place all that a tab could have kept: a link to a comparison does.
export function saysAll(search, place) {
  return placeIn(search) === place && new URLSearchParams(search).has('compare');
}

// What stands in the address while each place is in sight. What a place says there is its own: it is left out on the
// others and stands there again on the way back.
export class Addresses {
  constructor() {
    this.left = new Map();
  }
  // A place is left: what stood in the address for it.
  leave(place, search) {
    this.left.set(place, search);
  }
  // The address of a place that was chosen; `search` is what stands there now.
  of(place, search) {
    const asked = new URLSearchParams(this.left.get(place) || (placeIn(search) === place ? search : common(search)));
    asked.set('tab', NAMES[place] || place);
    return `?${asked}`;
  }
  // The address with another first frame of a place; an empty one is none of the samples.
  withStart(place, search, sample) {
    const asked = new URLSearchParams(search);
    if (sample) asked.set('start', sample);
    else asked.delete('start');
    asked.set('tab', NAMES[place] || place);
    return `?${asked}`;
  }
}

// What belongs to all places, such as Gradio's own __theme.
function common(search) {
  return [...new URLSearchParams(search)].filter(([name]) => name.startsWith('__'));
}
// The page's own address, as visitors see it: the modules are served below it, as modules/<version>/web/address.js.
export const pageAddress = (path = '') => new URL(`../../../${path}`, import.meta.url);
export const sharedAddress = (id, file) => pageAddress(`shared/${id}/${file}`);
export function linkTo(id) {
  const link = pageAddress();
  link.searchParams.set('flight', id);
  return link.href;
}
// The shared flight that this page was opened with.
export const wantedFlight = () => new URLSearchParams(location.search).get('flight');
