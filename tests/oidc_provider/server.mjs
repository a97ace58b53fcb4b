// The certified OpenID provider `oidc-provider` as a user's cloud: login and consent pages, PKCE demanded, single-use
// refresh tokens with reuse detection, revocation, RFC 9207. It reads one line of JSON, says {"issuer": …} once it listens,
// and ends when its standard input closes. `.running` starts it.

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const lines = createInterface({ input: process.stdin });
const [line] = await new Promise((resolve) => lines.once('line', (text) => resolve([text])));
lines.on('close', () => process.exit(0));
const { modules, clients, accessTokenSeconds, rotate, port } = JSON.parse(line);

const found = createRequire(`${modules}/`).resolve('oidc-provider');
const { Provider } = await import(pathToFileURL(found));

const server = createServer();
await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

// The account `narrow` unticks what storage needs; its own pages have no boxes, so its grant is narrowed on the way.
async function loadExistingGrant(ctx) {
  const { oidc } = ctx;
  const id = oidc.result?.consent?.grantId || oidc.session.grantIdFor(oidc.client.clientId);
  const grant = id ? await oidc.provider.Grant.find(id) : undefined;
  if (grant && oidc.session.accountId === 'narrow') {
    grant.rejectOIDCScope('storage.write');
    await grant.save();
  }
  return grant;
}

const provider = new Provider(issuer, {
  clients,
  scopes: ['openid', 'offline_access', 'storage.write', 'storage.admin'],
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['tests only'] },
  pkce: { required: () => true },
  rotateRefreshToken: () => rotate,
  loadExistingGrant,
  findAccount: (_ctx, sub) => ({
    accountId: sub,
    claims: async () => ({ sub, email: `${sub}@example.org`, email_verified: true }),
  }),
  features: { devInteractions: { enabled: true }, revocation: { enabled: true }, rpInitiatedLogout: { enabled: false } },
  ttl: {
    AccessToken: () => accessTokenSeconds,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 600,
    Interaction: 600,
    RefreshToken: () => 86400,
    Session: 86400,
  },
});
provider.on('server_error', (_ctx, error) => console.error(error.stack));
server.on('request', provider.callback());
process.stdout.write(`${JSON.stringify({ issuer })}\n`);
