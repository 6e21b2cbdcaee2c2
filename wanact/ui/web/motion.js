// Whether this visitor has asked their system for less motion: then nothing plays, loops or glides by itself.
export const wantsStillness = () => Boolean(globalThis.matchMedia?.('(prefers-reduced-motion: reduce)').matches);

// The behaviour of a scroll that the page makes by itself.
export const gliding = () => (wantsStillness() ? 'auto' : 'smooth');
