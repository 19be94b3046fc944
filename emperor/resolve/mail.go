package resolve

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
	"liege/vassal/mail"
)

// mail is what becomes of the vassal's mail: where sendmail submits, and at
// which addresses the relay holds the vassal to the ceilings (CONTRACT 21).
func (r *resolver) mail() {
	m, j := &r.res.Mail, r.cfg.Jail
	m.Server = j.Sendmail
	if r.host.Caller != nil {
		if m.Server.Address != "" {
			r.report(vassal.Note, vassal.CodeDoneOtherwise, r.at(m.Server.At), "sendmail", "the app has the host's own /usr/sbin/sendmail here", "")
		}
		return
	}
	user := r.res.User
	if user == "" {
		user = strconv.Itoa(r.res.UID)
	}
	m.Caps = mail.Caps{Senders: mail.For(r.host.Mail.Senders, user), Rate: r.host.Mail.Rate}
	m.HostName = mailName(OS{})
	if c := m.Server; c.Address != "" {
		r.mailServer(c)
	}
	r.mailDoors()
}

// mailServer is where sendmail submits to. The app reaches the same address.
func (r *resolver) mailServer(c vassal.Connection) {
	capped := !r.res.Mail.Caps.None()
	switch {
	case !r.mayConnect(c):
		r.fail(vassal.CodeOverCeiling, c.At, c.Key, "a file of a user may not send mail by "+c.Address, "the address of [defaults], or [ceilings] connect = "+c.Address+" in emperor.ini")
	case r.emperors(c.Path()):
		r.fail(vassal.CodeBadValue, c.At, c.Key, c.Path()+" is Liege's own", "")
	case c.Path() != "" && r.shows(c.Path()) && capped:
		r.fail(vassal.CodeOverCeiling, c.At, c.Key, c.Path()+" is visible inside: the app would connect to it past [ceilings] sendmail-sender and sendmail-rate", "no bind that shows it")
	case c.Path() == "" && r.res.Net == "host":
		if capped {
			r.warn(vassal.CodeNotReachable, c.At, c.Key, "net = host: the app reaches mail servers by itself, so [ceilings] sendmail-sender and sendmail-rate hold for /usr/sbin/sendmail alone", "net = none")
		}
	case c.Path() == "" && !slices.ContainsFunc(r.res.Connect, func(o vassal.Connection) bool { return o.Address == c.Address }):
		r.res.Connect = append(r.res.Connect, c)
	}
}

// smtpPort is where mail servers take mail for others.
const smtpPort = ":25"

// mailDoors are the addresses at which the relay speaks SMTP: where a sendmail
// line says that a mail server is and, if there are ceilings, port 25 of whom a
// connect line names.
func (r *resolver) mailDoors() {
	m := &r.res.Mail
	for _, c := range r.res.Connect {
		known := slices.Contains(r.cfg.Jail.Mailers, c.Address) || c.Path() == "" && strings.HasSuffix(c.Address, smtpPort)
		if c.Key == "sendmail" || known && !m.Caps.None() {
			m.Doors = append(m.Doors, c.Address)
		}
	}
}

// mailName is the name under which this host sends mail.
func mailName(host FS) string {
	if b, err := host.ReadFile("/etc/mailname"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 && mail.Plain(f[0]) {
			return f[0]
		}
	}
	if name, err := os.Hostname(); err == nil && mail.Plain(name) {
		return name
	}
	return "localhost"
}

// String says what holds for the vassal's mail.
func (m Mail) String() string {
	if m.Server.Address == "" {
		return "/usr/sbin/sendmail refuses: sendmail = no"
	}
	from, rate := "from anybody", ""
	if len(m.Caps.Senders) > 0 {
		from = "from " + strings.Join(m.Caps.Senders, " ")
	}
	if m.Caps.Rate.N > 0 {
		rate = fmt.Sprintf(", at most %s recipients of all of the user's vassals", m.Caps.Rate)
	}
	return fmt.Sprintf("/usr/sbin/sendmail submits to %s %s%s", m.Server.Address, from, rate)
}
