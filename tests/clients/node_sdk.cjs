// Twilio's own Node SDK, unchanged, through the proxy: send, list with paging, fetch, redact, delete, and an error.
//
// Usage: node node_sdk.cjs URL ACCOUNT_SID TOKEN, of a running `extension-host demo`.
const assert = require("node:assert");
const twilio = require("twilio");

// Shows the host's token in place of Twilio's credential, which the SDK never needs.
class HostToken {
  constructor(token) {
    this.token = token;
  }
  getAuthType() {
    return "noauth";
  }
  toAuthStrategy() {
    return this;
  }
  async getAuthString() {
    return `Bearer ${this.token}`;
  }
  requiresAuthentication() {
    return true;
  }
}

function clientOf(url, accountSid, token) {
  const client = new twilio.Twilio();
  client.setCredentialProvider(new HostToken(token));
  client.setAccountSid(accountSid);
  client.api.baseUrl = `${url}/twilio`;
  return client;
}

async function main(url, accountSid, token) {
  const client = clientOf(url, accountSid, token);
  const sent = [];
  for (let n = 0; n < 5; n++) {
    sent.push(await client.messages.create({ to: "+15005550009", from: "+15005550006", body: `Grüße ${n} & more` }));
  }
  assert.strictEqual(sent[0].body, "Grüße 0 & more");
  const listed = new Set((await client.messages.list({ pageSize: 2 })).map((message) => message.sid));
  assert(sent.every((message) => listed.has(message.sid)), "paging lost a message");
  assert.strictEqual((await client.messages(sent[0].sid).fetch()).to, "+15005550009");
  assert.strictEqual((await client.messages(sent[0].sid).update({ body: "" })).body, "");
  assert.strictEqual(await client.messages(sent[0].sid).remove(), true);
  await assert.rejects(client.messages(sent[0].sid).fetch(), { status: 404, code: 20404 });
  await assert.rejects(clientOf(url, accountSid, "").messages.list({ limit: 1 }), { status: 403 });
  console.log("twilio-node: send, page, fetch, redact, delete and errors work through the proxy");
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
