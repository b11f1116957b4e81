// Chat templates: the model's own where it has one, with its special tokens; refusals in the template's words; and an end, always.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { chatOf, readChat } from '../../io/chat.ts';

const hello = [{ role: 'user', content: 'hello' }];
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tinypeft-chat-'));
});
afterAll(() => rm(folder, { recursive: true }));
const settings = (value: unknown): Promise<void> => writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(value));

describe('a model folder', () => {
  test('without a template has no chat', async () => {
    expect(await readChat(folder)).toBeNull();
  });
  test('chat_template of tokenizer_config.json, with its special tokens, as texts or objects', async () => {
    await settings({
      chat_template: '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}',
      bos_token: '<s>',
      eos_token: { content: '</s>' },
    });
    expect((await readChat(folder))!(hello)).toBe('<s>hello</s>');
  });
  test('of several, the one named default', async () => {
    const chat_template = [
      { name: 'tools', template: 'tools' },
      { name: 'default', template: 'plain {{ messages[0].role }}' },
    ];
    await settings({ chat_template });
    expect((await readChat(folder))!(hello)).toBe('plain user');
  });
  test('chat_template.jinja comes first', async () => {
    await writeFile(join(folder, 'chat_template.jinja'), '{% if add_generation_prompt %}yes{% else %}no{% endif %}');
    const chat = (await readChat(folder))!;
    expect([chat(hello), chat(hello, true)]).toEqual(['no', 'yes']);
  });
  test('settings that are not JSON', async () => {
    await writeFile(join(folder, 'tokenizer_config.json'), '{');
    await expect(readChat(folder)).rejects.toThrow(/tokenizer_config.json: is not JSON/);
  });
});

describe('templates', () => {
  const say = (source: string): string => chatOf(source, {}, 'model')(hello, true);
  test('have range, namespaces, macros, filters and the date', () => {
    expect(say('{% for i in range(1, 10, 4) %}{{ i }},{% endfor %}{% for i in range(2, 0, -1) %}{{ i }}{% endfor %}')).toBe('1,5,9,21');
    expect(say('{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}')).toBe('1');
    expect(say("{% macro b(x) %}[{{ x | upper }}]{% endmacro %}{{ b(messages[0]['content']) }}")).toBe('[HELLO]');
    expect(say('{% for m in messages if m.role == "user" %}{{ loop.index }}{% endfor %}')).toBe('1');
    expect(say("{{ strftime_now('%Y') }}")).toBe(String(new Date().getFullYear()));
    expect(say('{{ none }}{{ True and not false }}')).toBe('true');
  });
  test('refuse a conversation in their own words', () =>
    expect(() => say("{{ raise_exception('roles must alternate') }}")).toThrow(
      'model: the template refuses this conversation (roles must alternate)',
    ));
  test('that cannot be parsed are refused', () => {
    expect(() => chatOf('{% for %}', {}, 'model')).toThrow(/^model: the chat template cannot be parsed/);
    expect(() => chatOf(`{{${'('.repeat(50_000)}`, {}, 'model')).toThrow(/cannot be parsed/);
  });
  const endless: readonly (readonly [what: string, source: string, why: RegExp])[] = [
    ['a long range', '{% for i in range(1000000000) %}{% endfor %}', /range\(0, 1000000000, 1\) is too long/],
    ['a range without steps', '{% for i in range(1, 5, 0) %}{% endfor %}', /no range/],
    ['loops in loops', `${'{% for i in range(300) %}'.repeat(3)}${'{% endfor %}'.repeat(3)}`, /does not end/],
    [
      'a list that is walked again and again',
      '{% set l = range(900) %}{% for i in l %}{% for j in l if j %}{% endfor %}{% endfor %}',
      /does not end/,
    ],
    [
      'a text that doubles',
      "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
      /makes a text or list/,
    ],
    [
      'a list that doubles',
      '{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}',
      /makes a text or list/,
    ],
    ['a macro that calls itself', '{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}', /refuses/],
  ];
  for (const [what, source, why] of endless)
    test(`${what}: ended, not waited for`, () => {
      const began = performance.now();
      expect(() => say(source)).toThrow(why);
      expect(performance.now() - began).toBeLessThan(20_000); // about half a second on an idle machine
    });
  test('an object of the template’s own does not reach ours', () => {
    say("{% set d = {'__proto__': {'polluted': 1}} %}{{ d['__proto__'] }}{{ messages.constructor }}{{ ''['constructor'] }}");
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });
});
