// Package sendmail is liege-sendmail, the /usr/sbin/sendmail of a vassal: it
// reads one message, as every sendmail does, and submits it by SMTP to the
// socket on which the vassal's relay answers (CONTRACT 21).
//
//	app ──exec──► sendmail -t -i ──SMTP──► /run/liege/sendmail.sock ──► liege-relay ──► mail server
//
// It is a program of the tenant's and trusted with nothing: what holds about
// senders and rates holds in the relay.
//
// # What it promises
//
// It has no queue. Status 0 says that the mail server has the message, for all of
// its recipients; any other that nobody gets it, and standard error says why in
// one line: 64 a flag that is none, 65 a message that cannot be sent, 69 the
// server refused it or there is no mail here, 75 try again. What is sent is a
// message by RFC 5322: lines end with CR and LF and have at most 998 bytes, Bcc is
// taken away, From, Date and Message-ID are there.
package sendmail

// Exit statuses, those of sysexits.h.
const (
	exitOK          = 0
	exitUsage       = 64
	exitData        = 65
	exitUnavailable = 69
	exitTemporary   = 75
)

// failure is why a message is not sent.
type failure struct {
	status int
	text   string
}

func (f *failure) Error() string { return f.text }
