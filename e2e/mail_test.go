package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testmail"
	"liege/vassal"
)

// mailing is an app that runs what its query says: sendmail with the words of
// "args" and the text of "in", and answers with the status and what was said; or
// it speaks SMTP itself, to "to", and answers with the last lines of the answers.
const mailing = `
import socket, subprocess, urllib.parse

def smtp(to, lines):
    if to.startswith('unix:'):
        s = socket.socket(socket.AF_UNIX)
        s.connect(to[5:])
    else:
        s = socket.create_connection((to.rsplit(':', 1)[0], int(to.rsplit(':', 1)[1])), 30)
    f = s.makefile('rb')
    def answer():
        while True:
            line = f.readline()
            if len(line) < 4 or line[3:4] != b'-':
                return line.decode().strip()
    said = [answer()]
    for line in lines:
        s.sendall(line.encode() + b'\r\n')
        said.append(answer())
    return '\n'.join(said[1:])

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    q = urllib.parse.parse_qs(environ['QUERY_STRING'])
    try:
        if 'to' in q:
            return [smtp(q['to'][0], q['say']).encode()]
        if 'args' in q:
            p = subprocess.run(['/usr/sbin/sendmail'] + q['args'][0].split(), input=q['in'][0].encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            return [b'%d ' % p.returncode + p.stdout.strip()]
    except OSError as e:
        return [('%s: %s' % (type(e).__name__, e.strerror)).encode()]
    return [b'hello']
`

// sendmail has the app at addr run it.
func (r *realm) sendmail(addr, args, in string) string {
	r.t.Helper()
	_, got := r.get(addr, "/?"+url.Values{"args": {args}, "in": {in}}.Encode())
	return got
}

// smtp has the app at addr speak SMTP.
func (r *realm) smtp(addr, to string, say ...string) string {
	r.t.Helper()
	_, got := r.get(addr, "/?"+url.Values{"to": {to}, "say": say}.Encode())
	return got
}

// mailHost is the name under which this machine sends mail.
func mailHost(t *testing.T) string {
	t.Helper()
	if b, err := os.ReadFile("/etc/mailname"); err == nil {
		return strings.TrimSpace(string(b))
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

const letter = "To: x@y.example\nSubject: s\nBcc: z@y.example\n\nhello\n.\n"

// TestSendmail: an app's /usr/sbin/sendmail, and its own SMTP, within what the
// operator allows.
func TestSendmail(t *testing.T) {
	r := layRealm(t)
	r.write("app/app.py", mailing)
	sink, other := testmail.New(t, "127.0.0.1:0"), testmail.New(t, filepath.Join(runDir(t), "smtp"))
	if err := os.Chmod(other.Addr(), 0o777); err != nil {
		t.Fatal(err)
	}
	r.ini = "[defaults]\nsendmail = " + sink.Addr() + "\n[ceilings]\nsendmail-sender = %U@" + mailHost(t) + " *@%U.example\nsendmail-rate = 8/d\nconnect = 127.0.0.1:1-65535\n"
	r.begin()
	const app = "http = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = app.py\n"
	r.drop("v", "uid = www-data\n"+app)
	addr := r.up("v").Listen[0]

	if got := r.sendmail(addr, "-t -i", letter); got != "0 " {
		t.Fatalf("%q\n%s", got, r.liege("logs", "v"))
	}
	m := sink.Next()
	if m.From != fmt.Sprintf("<www-data@%s> SIZE=%d", mailHost(t), size(m.Text)) || strings.Join(m.To, " ") != "<x@y.example> <z@y.example>" ||
		strings.Contains(m.Text, "z@y") || !strings.HasSuffix(m.Text, "To: x@y.example\nSubject: s\n\nhello\n.\n") {
		t.Errorf("%+v", m)
	}
	evil := "MAIL FROM:<a@evil.example>"
	const refusal = "550 5.7.1 <a@evil.example> may not send here; allowed: www-data@"
	if got := r.sendmail(addr, "-t -f a@evil.example", letter); !strings.HasPrefix(got, "69 sendmail: refused by the mail server: "+refusal) {
		t.Error(got)
	}
	for _, to := range []string{sink.Addr(), "unix:/run/liege/sendmail.sock"} {
		if got := r.smtp(addr, to, "EHLO x", evil, "MAIL FROM:<a@www-data.example>", "RSET", "AUTH PLAIN x"); !strings.HasPrefix(got, "250 8BITMIME\n"+refusal) || !strings.HasSuffix(got, "\n250 2.0.0 Ok\n250 2.0.0 Ok\n502 5.5.1 not through this door") {
			t.Errorf("%s: %s", to, got)
		}
	}
	// Nor another way: with mail off, by the same server's address.
	r.drop("off", "uid = www-data\nsendmail = no\nconnect = "+sink.Addr()+"\n"+app)
	off := r.up("off").Listen[0]
	if got := r.smtp(off, sink.Addr(), evil); !strings.HasPrefix(got, refusal) {
		t.Error(got)
	}
	if got := r.sendmail(off, "-t", letter); got != "69 sendmail: this vassal sends no mail; hint: sendmail = 127.0.0.1:25 in its file" {
		t.Error(got)
	}
	// An operator's file may name another server, and is held to the same.
	r.drop("unix", "uid = nobody\nsendmail = unix:"+other.Addr()+"\n"+app)
	if got := r.sendmail(r.up("unix").Listen[0], "-t -f me@nobody.example", letter); got != "0 " || !strings.HasPrefix(other.Next().From, "<me@nobody.example>") {
		t.Error(got)
	}
	if got := r.smtp(r.status("unix").Listen[0], "unix:/run/liege/sendmail.sock", evil); !strings.HasPrefix(got, "550 ") {
		t.Error(got)
	}
	b, err := exec.Command(filepath.Join(r.bin, "liege"), "explain", "--config", filepath.Join(r.dir, "emperor.ini"), filepath.Join(r.etc, "v.ini")).CombinedOutput()
	if err != nil {
		t.Errorf("explain: %v", err)
	}
	out := strings.Join(strings.Fields(string(b)), " ")
	if want := "/usr/sbin/sendmail submits to " + sink.Addr() + " from www-data@" + mailHost(t) + " *@www-data.example, at most 8/d recipients of all of the user's vassals"; !strings.Contains(out, want) {
		t.Errorf("explain lacks %q:\n%s", want, out)
	}
	if log := r.liege("logs", "v"); !strings.Contains(log, "liege: mail from <www-data@"+mailHost(t)+"> to 2: 250 2.0.0 Ok: queued as 4711") || !strings.Contains(log, "liege: mail from <a@evil.example> refused") {
		t.Errorf("the log:\n%s", log)
	}
	r.mailRate(sink, app)
	if n := sink.Count() + other.Count(); n != 0 {
		t.Errorf("%d messages more", n)
	}
}

// mailRate: what a user's vassals send counts together, whatever the user does
// to them. Two recipients of www-data's eight are used.
func (r *realm) mailRate(sink *testmail.Sink, app string) {
	t := r.t
	r.write("mine/app.py", mailing)
	r.give("mine", nobody, nobody)
	r.dropAs(nobody, nobody, "tenant", "http = DIR/mine/%n.sock\nchdir = DIR/mine\nwsgi-file = app.py\nsendmail = "+sink.Addr()+"\n") // the operator's word, repeated
	for range 3 {
		if got := r.sendmail(r.up("v").Listen[0], "-t", letter); got != "0 " {
			t.Fatal(got)
		}
		sink.Next()
		r.liege("reload", "v")
	}
	r.drop("again", "uid = www-data\n"+app)
	for _, name := range []string{"v", "again"} {
		if got := r.sendmail(r.up(name).Listen[0], "-t", letter); !strings.HasPrefix(got, "75 sendmail: put off by the mail server: 450 4.7.1 more than 8/d recipients; again in ") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if err := os.Remove(filepath.Join(r.etc, "v.ini")); err != nil {
		t.Fatal(err)
	}
	r.liege("wait", "v", "gone", "--timeout", patience)
	r.drop("v", "uid = www-data\n"+app)
	if got := r.sendmail(r.up("v").Listen[0], "-t", letter); !strings.HasPrefix(got, "75 ") {
		t.Error(got)
	}
	if got := r.sendmail(r.up("tenant").Listen[0], "-t", letter); got != "0 " { // another user's
		t.Error(got)
	}
	sink.Next()
}

// size is how many bytes a text has as it travels.
func size(text string) int {
	return len(text) + strings.Count(text, "\n") + strings.Count(text, "\n.\n")
}

// TestSendmailTenant: who says where a user's mail goes.
func TestSendmailTenant(t *testing.T) {
	r := layRealm(t)
	r.write("app/app.py", mailing)
	sink, other := testmail.New(t, "127.0.0.1:0"), testmail.New(t, "127.0.0.1:0")
	r.ini = "[ceilings]\nconnect = " + other.Addr() + "\n"
	r.begin()
	app := "http = DIR/app/%n.sock\nchdir = DIR/app\nwsgi-file = app.py\n"
	r.give("app", nobody, nobody)
	r.dropAs(nobody, nobody, "named", app+"sendmail = "+sink.Addr()+"\n")
	if got := r.refused("named"); got != vassal.CodeOverCeiling {
		t.Error(got)
	}
	r.dropAs(nobody, nobody, "allowed", app+"sendmail = "+other.Addr()+"\n")
	if got := r.sendmail(r.up("allowed").Listen[0], "-t -f any@where.example", letter); got != "0 " || !strings.HasPrefix(other.Next().From, "<any@where.example>") {
		t.Error(got)
	}
	r.dropAs(nobody, nobody, "none", app)
	if got := r.sendmail(r.up("none").Listen[0], "-t", letter); !strings.HasPrefix(got, "69 sendmail: this vassal sends no mail") {
		t.Error(got)
	}
	// Without ceilings a connect line is any bytes, as ever.
	r.dropAs(nobody, nobody, "plain", app+"connect = "+other.Addr()+"\n")
	if got := r.smtp(r.up("plain").Listen[0], other.Addr(), "AUTH PLAIN x"); got != "250 2.0.0 Ok" {
		t.Error(got)
	}
}
