/** `WWW-Authenticate` (RFC 9110 section 11.6.1): one or more challenges with parameters. */

export interface Challenge {
  /** Lower-case. */
  readonly scheme: string;
  /** Names in lower case. */
  readonly parameters: ReadonlyMap<string, string>;
}

const token = /[!#$%&'*+.^_`|~0-9A-Za-z-]+/y;

/** What cannot be read ends the list; a registry that sends nonsense has sent no challenge. */
export function parseChallenges(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  let at = 0;
  const skip = (pattern: RegExp): void => {
    while (at < header.length && pattern.test(header.charAt(at))) at += 1;
  };
  const read = (): string => {
    token.lastIndex = at;
    const match = token.exec(header);
    at += match?.[0].length ?? 0;
    return match?.[0] ?? "";
  };
  while (at < header.length) {
    skip(/[\s,]/);
    const word = read();
    if (word === "") break;
    const afterWord = at;
    skip(/\s/);
    const current = challenges.at(-1);
    if (header.charAt(at) === "=" && current !== undefined) {
      at += 1;
      skip(/\s/);
      current.parameters.set(word.toLowerCase(), header.charAt(at) === '"' ? quoted() : read());
      continue;
    }
    at = afterWord;
    challenges.push({ scheme: word.toLowerCase(), parameters: new Map() });
  }
  return challenges;

  function quoted(): string {
    let text = "";
    for (at += 1; at < header.length; at += 1) {
      const character = header.charAt(at);
      if (character === '"') {
        at += 1;
        break;
      }
      if (character === "\\") at += 1;
      text += header.charAt(at);
    }
    return text;
  }
}
