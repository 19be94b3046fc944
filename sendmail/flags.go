package sendmail

import (
	"fmt"
	"strings"
)

// options are what the command line says.
type options struct {
	fromHeader bool   // -t
	dots       bool   // -i: a line that is a dot does not end the message
	sender     string // -f, -r
	senderSet  bool
	name       string // -F
	mode       byte   // -b: 'm' a message, 's' SMTP, 'p' the queue
	to         []string
}

// valued are the flags with a value, behind the letter or in the next word, of
// Sendmail and Postfix.
const valued = "ABCFLNORVXbefhopqr"

// bare are the others that are taken.
const bare = "GUimntv"

// parse reads the command line, as getopt(3) does: flags may stand behind
// recipients, until "--".
func parse(args []string) (o options, err error) {
	o.mode = 'm'
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		if a == "--" {
			break
		}
		if len(a) < 2 || a[0] != '-' {
			o.to = append(o.to, a)
			continue
		}
		for i := 1; i < len(a); i++ {
			switch c := a[i]; {
			case strings.IndexByte(bare, c) >= 0:
				o.bare(c)
				continue
			case strings.IndexByte(valued, c) < 0:
				return o, &failure{exitUsage, fmt.Sprintf("-%c is no flag of it", c)}
			}
			value := a[i+1:]
			if value == "" && a[i] != 'q' { // -q alone runs the queue
				if len(args) == 0 {
					return o, &failure{exitUsage, fmt.Sprintf("-%c needs a value", a[i])}
				}
				value, args = args[0], args[1:]
			}
			if err := o.valued(a[i], value); err != nil {
				return o, err
			}
			break
		}
	}
	o.to = append(o.to, args...)
	return o, o.check()
}

func (o *options) bare(c byte) {
	switch c {
	case 't':
		o.fromHeader = true
	case 'i':
		o.dots = true
	}
}

func (o *options) valued(c byte, v string) error {
	switch c {
	case 'f', 'r':
		o.sender, o.senderSet = v, true
	case 'F':
		o.name = v
	case 'o':
		o.dots = o.dots || v == "i"
	case 'b':
		if v != "m" && v != "s" && v != "p" {
			return &failure{exitUsage, fmt.Sprintf("-b%s is for a mail server: this one sends a message and ends", v)}
		}
		o.mode = v[0]
	case 'q':
		return &failure{exitUnavailable, "there is no queue here: a message is sent at once, or not"}
	}
	return nil
}

func (o *options) check() error {
	switch {
	case o.mode != 'm':
		return nil
	case o.fromHeader && len(o.to) > 0:
		return &failure{exitUsage, "-t and recipients in the command line: one of both"}
	case !o.fromHeader && len(o.to) == 0:
		return &failure{exitUsage, "no recipients: sendmail -t, or sendmail ADDRESS…"}
	}
	return nil
}
