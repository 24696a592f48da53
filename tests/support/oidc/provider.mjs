// An OpenID Connect provider for tests: HTTPS on the loopback, its developer login, JWT access tokens for `remit`.
// Arguments: port (0 for any), certificate, key. Says its issuer in one line of JSON, then reads commands:
// `rotate` signs with a new key and still publishes the old one, `forget` publishes the newest key alone.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, certificate, key] = process.argv.slice(2);

function signingKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'ES256' };
}

// What the provider remembers outlives a rotation, which makes it anew with other keys.
const stored = new Map();

class Memory {
  constructor(kind) { this.kind = kind; }
  name(id) { return `${this.kind}:${id}`; }
  values() { return [...stored].filter(([name]) => name.startsWith(`${this.kind}:`)); }
  async upsert(id, payload) { stored.set(this.name(id), payload); }
  async find(id) { return stored.get(this.name(id)); }
  async findByUid(uid) { return this.values().map(([, value]) => value).find((value) => value.uid === uid); }
  async findByUserCode(code) { return this.values().map(([, value]) => value).find((value) => value.userCode === code); }
  async consume(id) { stored.get(this.name(id)).consumed = Math.floor(Date.now() / 1000); }
  async destroy(id) { stored.delete(this.name(id)); }
  async revokeByGrantId(grant) { this.values().forEach(([name, value]) => value.grantId === grant && stored.delete(name)); }
}

const client = {
  client_secret: 'a secret of tests alone',
  grant_types: ['authorization_code', 'refresh_token', 'client_credentials'],
  redirect_uris: ['https://127.0.0.1/callback'],
  id_token_signed_response_alg: 'ES256',
};

function provider(issuer, keys) {
  return new Provider(issuer, {
    adapter: Memory,
    jwks: { keys },
    clients: [{ client_id: 'rag-app', ...client }, { client_id: 'other-app', ...client }],
    cookies: { keys: ['a key of tests alone'] },
    scopes: ['openid', 'offline_access', 'search'],
    issueRefreshToken: async () => true,
    features: {
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:remit',
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: 'search',
          audience: 'remit',
          accessTokenFormat: 'jwt',
          accessTokenTTL: 600,
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
}

const server = createServer({ cert: readFileSync(certificate), key: readFileSync(key) });
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  let keys = [signingKey()];
  let answer = provider(issuer, keys).callback();
  server.on('request', (request, response) => answer(request, response));
  process.stdout.write(`${JSON.stringify({ issuer })}\n`);
  const commands = createInterface({ input: process.stdin });
  commands.on('line', (line) => {
    keys = line === 'rotate' ? [signingKey(), ...keys] : keys.slice(0, 1);
    answer = provider(issuer, keys).callback();
    process.stdout.write(`${JSON.stringify({ done: line, kid: keys[0].kid })}\n`);
  });
  // Whoever started this ends it by closing its input.
  commands.on('close', () => process.exit(0));
});
