import {Addresses, placeIn} from './address.js';
import {whenThere} from './appear.js';

const BEAT_MS = 60000;

export function mount({element, server}) {
  const KEY = 'wanact-mode';
  // The server keeps what it knows of this tab for as long as it hears of it; hidden tabs beat as well.
  const beat = setInterval(() => {
    if (!element.isConnected) return clearInterval(beat);
    server.beat({}).catch(() => {}); // it may be away for a while
  }, BEAT_MS);

  try {
    const mode = localStorage.getItem(KEY);
    if (mode) document.body.classList.toggle('dark', mode === 'dark');
  } catch {
    /* storage is blocked: the system's choice stands */
  }
  element.querySelector('.mode').addEventListener('click', () => {
    const dark = document.body.classList.toggle('dark');
    try {
      localStorage.setItem(KEY, dark ? 'dark' : 'light');
    } catch {
      /* not remembered */
    }
  });

  // The first tab stops lead past the tabs, and to what the place in sight is for.
  const MAIN = [
    ['button.primary', ''],
    ['[data-do=takeoff]', ''],
    ['.live', 'the flight'],
    ['[role=grid] button', 'the list'],
  ];
  const panel = () => [...document.querySelectorAll('#places [role=tabpanel]')].find(one => one.offsetParent);
  function mainOf(place) {
    for (const [selector, words] of MAIN) {
      const found = [...(place?.querySelectorAll(selector) || [])].find(one => one.offsetParent);
      if (found) return [found, words || found.textContent.trim()];
    }
    return [place, 'the page'];
  }
  const [toAction, toPage] = ['action', 'page'].map(name => element.querySelector(`[data-skip=${name}]`));
  toAction.addEventListener('focus', () => {
    toAction.textContent = `Skip to ${mainOf(panel())[1]}`;
  });
  function skip(event, target) {
    event.preventDefault();
    if (target === panel()) target.tabIndex = -1;
    target?.focus();
  }
  toAction.addEventListener('click', event => skip(event, mainOf(panel())[0]));
  toPage.addEventListener('click', event => skip(event, panel()));

  // A picture that is pasted anywhere, or dropped beside the frame, goes the same way as one that is chosen.
  function choosePicture(files, event) {
    const picture = [...files].find(file => file.type.startsWith('image/'));
    const place = ['#frame', '#live-frame'].map(id => document.querySelector(id)).find(frame => frame?.offsetParent); // the one in sight
    const input = place?.querySelector('input[type=file]');
    if (!picture || !input) return;
    event.preventDefault();
    const chosen = new DataTransfer();
    chosen.items.add(picture);
    input.files = chosen.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  }
  document.addEventListener('paste', event => choosePicture(event.clipboardData?.files || [], event));
  document.addEventListener('dragover', event => {
    if (event.target.closest('#scene, #live-scene')) event.preventDefault();
  });
  document.addEventListener('drop', event => {
    if (event.target.closest('#scene, #live-scene') && !event.defaultPrevented)
      choosePicture(event.dataTransfer?.files || [], event);
  });

  // The places are tabs. A component asks for one by `wanact:go`; whoever comes into sight is announced to all, and
  // stands in the address, so that Back goes to the place before and a reload comes back to this one.
  const addresses = new Addresses();
  const tabs = () => [...document.querySelectorAll('#places [role=tab]')];
  const press = place =>
    tabs()
      .find(tab => tab.dataset.tabId === place)
      ?.click();
  document.addEventListener('wanact:go', event => {
    press(event.detail.place);
    scrollTo({top: 0});
  });
  let inSight = '';
  let home = ''; // where an address leads that names no place
  function tellPlace() {
    const place = tabs().find(tab => tab.getAttribute('aria-selected') === 'true')?.dataset.tabId || '';
    if (place === inSight) return;
    if (inSight && place !== (placeIn(location.search) || home)) {
      addresses.leave(inSight, location.search);
      history.pushState(null, '', addresses.of(place, location.search));
    }
    inSight = place;
    document.body.dataset.place = place;
    document.dispatchEvent(new CustomEvent('wanact:place', {detail: {place}}));
  }
  addEventListener('popstate', () => press(placeIn(location.search) || home));
  document.addEventListener('wanact:start', ({detail: {place, sample}}) => {
    if (place === inSight) history.replaceState(null, '', addresses.withStart(place, location.search, sample));
    else addresses.leave(place, addresses.withStart(place, addresses.of(place, location.search), sample));
  });
  whenThere('#places [role=tab]', tab => {
    new MutationObserver(tellPlace).observe(tab.closest('#places'), {
      subtree: true,
      attributes: true,
      attributeFilter: ['aria-selected'],
    });
    tellPlace();
    home = inSight;
    press(placeIn(location.search) || home);
  });
}
