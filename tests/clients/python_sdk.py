"""Twilio's own Python SDK, unchanged, through the proxy: send, list with paging, fetch, redact, delete, and an error.

Usage: python_sdk.py URL ACCOUNT_SID TOKEN, of a running `extension-host demo`.
"""
import sys

from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.credential.credential_provider import CredentialProvider
from twilio.auth_strategy.auth_strategy import AuthStrategy
from twilio.auth_strategy.auth_type import AuthType
from twilio.rest import Client


class HostToken(CredentialProvider, AuthStrategy):
    """Shows the host's token in place of Twilio's credential, which the SDK never needs."""

    def __init__(self, token):
        CredentialProvider.__init__(self, AuthType.NO_AUTH)
        self.token = token

    def to_auth_strategy(self):
        return self

    def get_auth_string(self):
        return f"Bearer {self.token}"

    def requires_authentication(self):
        return True


def main(url, account_sid, token):
    client = Client(account_sid=account_sid, credential_provider=HostToken(token), environment={"-": "-"})
    client.api.base_url = f"{url}/twilio"

    sent = [client.messages.create(to="+15005550009", from_="+15005550006", body=f"Grüße {n} & more") for n in range(5)]
    assert all(message.sid.startswith("SM") for message in sent), sent
    assert sent[0].body == "Grüße 0 & more", sent[0].body

    listed = {message.sid for message in client.messages.list(page_size=2)}
    assert listed >= {message.sid for message in sent}, "paging lost a message"

    fetched = client.messages(sent[0].sid).fetch()
    assert fetched.to == "+15005550009", fetched.to
    assert client.messages(sent[0].sid).update(body="").body == ""
    assert client.messages(sent[0].sid).delete() is True
    try:
        client.messages(sent[0].sid).fetch()
        raise AssertionError("a deleted message was fetched")
    except TwilioRestException as error:
        assert (error.status, error.code) == (404, 20404), error

    anonymous = Client(account_sid=account_sid, credential_provider=HostToken(""), environment={"-": "-"})
    anonymous.api.base_url = f"{url}/twilio"
    try:
        anonymous.messages.list(limit=1)
        raise AssertionError("an anonymous caller was let through")
    except TwilioException as error:
        assert "You don't have permission to access this." in str(error.args[1]), error
    print("twilio-python: send, page, fetch, redact, delete and errors work through the proxy")


if __name__ == "__main__":
    main(*sys.argv[1:])
