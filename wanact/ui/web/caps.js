// Key caps as they stand on this visitor's keyboard: keys count by their place, and the keys in the place of W A S D are
// Z Q S D on a French one.
import {CHANNELS} from './channels.js';

const WAIT_MS = 300;
const USUAL = CHANNELS.filter(channel => channel.code.startsWith('Key')).map(({key, code}) => ({key, code}));
const USUAL_WORDS = 'W A S D';

// Give every channel the letter that is on its key, where the browser tells; done in any case, and soon.
export async function learnCaps(keyboard = globalThis.navigator?.keyboard) {
  try {
    const late = new Promise(resolve => setTimeout(resolve, WAIT_MS));
    const layout = await Promise.race([keyboard?.getLayoutMap?.(), late]);
    for (const channel of CHANNELS) channel.key = layout?.get(channel.code)?.toUpperCase() || channel.key;
  } catch {
    /* not allowed in this frame: the usual letters stand */
  }
}

const capOf = code => CHANNELS.find(channel => channel.code === code).key;

// The same for letters in a component's own words.
export function writeCaps(element) {
  const words = USUAL_WORDS.replace(/\w/g, key => capOf(`Key${key}`));
  if (words === USUAL_WORDS || !element.querySelectorAll) return;
  for (const cap of element.querySelectorAll('.hint kbd')) {
    cap.dataset.code ||= USUAL.find(({key}) => key === cap.textContent.trim())?.code || '';
    if (cap.dataset.code) cap.textContent = capOf(cap.dataset.code);
  }
  for (const named of element.querySelectorAll(`[aria-label*="${USUAL_WORDS}"]`))
    named.setAttribute('aria-label', named.getAttribute('aria-label').replace(USUAL_WORDS, words));
  for (const button of element.querySelectorAll('[data-channel][aria-keyshortcuts]')) {
    const {key, code} = CHANNELS[+button.dataset.channel];
    if (code.startsWith('Key')) button.setAttribute('aria-keyshortcuts', key);
  }
}
