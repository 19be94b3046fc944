// Package relay is liege-relay: the process outside a sandbox that lets the
// vassal inside reach the addresses that its file names (connect =), and no
// others.
//
//	in the sandbox's network          in the host's
//	app ──► listener at the address ──► liege-relay ──► the same address
//
// The Emperor makes the listeners, starts the process with the vassal's uid, gid
// and groups and without any privilege, and hands the listeners over on the
// process's one channel; package emperor/door is that side. For each connection
// accepted, the relay connects anew, so a service that was restarted is found
// again, and the service sees the vassal's uid as its peer.
//
// # What it promises
//
// Bytes pass in both directions, each with the backpressure of its own reader,
// and the end of one direction passes as such (a half-close). What a client
// wrote before it went is delivered. A client whose service refuses is closed at
// once, over TCP with a reset; a reset of the service reaches the client. At most
// Config.Conns connections live at once, the others wait in the listeners'
// queues. An idle connection holds no buffer.
//
// At a mail door it takes SMTP apart instead and holds the vassal to the
// operator's bounds, who may send and how much (mail.go); MailConns at once.
//
// # What it cannot do
//
// It is not trusted: it runs as the tenant, holds no secret, reads no file, and
// what it could do if a tenant took it over is what the tenant may do through it
// and as that user outside: connect. Its seccomp filter has no call to execute,
// bind or listen, and none to open but openat2, where a door has NoLinks. It outlives a killed Emperor, and ends when the next
// one has no use for it.
package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal/mail"
)

// Config is all that a relay is told, in one packet of JSON, together with the
// listeners: descriptor i is for Doors[i].
type Config struct {
	Doors  []Door            `json:"doors"`
	Conns  int               `json:"conns"`           // at once, of all doors together
	Filter []unix.SockFilter `json:"filter"`          // seccomp; empty: none
	Meter  bool              `json:"meter,omitempty"` // the last descriptor is the file of the rate's meter
}

// Door is where connections of one listener go.
type Door struct {
	Address string     `json:"address"`            // 127.0.0.1:5432, [::1]:25, unix:/run/mysqld/mysqld.sock
	Mail    *mail.Caps `json:"mail,omitempty"`     // SMTP within these bounds, and nothing else; nil: any bytes
	NoLinks bool       `json:"no-links,omitempty"` // a link on the way to the socket is an error: see Linkless
}

// Linkless reports whether the way to the socket of a unix door may have no link.
// Of a tenant's line it may not: [ceilings] connect allowed the path as it is
// written, and a link of his would lead past it.
func Linkless(address string, tenant bool) bool {
	return tenant && strings.HasPrefix(address, "unix:")
}

// The channel, a SOCK_SEQPACKET pair:
//
//	Emperor                         relay
//	  Config, with the listeners ──►
//	                             ◄── Ready: it is confined, and accepts
//
// The end of the channel means nothing: the Emperor may have been killed. On the
// signal Finish it accepts no more, and ends with its last connection.
const (
	Channel = 3 // the descriptor
	Ready   = "ready"
	Finish  = unix.SIGTERM
)

// MaxConfig bounds a Config on the wire, in bytes.
const MaxConfig = 64 << 10

// maxDoors leaves room for a meter: one packet carries 253 descriptors
// (SCM_MAX_FD).
const maxDoors = 252

// Encode returns c as it travels.
func (c *Config) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(c)
	if err == nil && len(b) > MaxConfig {
		err = fmt.Errorf("relay: a configuration of %d bytes; at most %d are allowed", len(b), MaxConfig)
	}
	return b, err
}

// Decode is the reverse of Encode.
func Decode(b []byte) (*Config, error) {
	c := &Config{}
	if len(b) > MaxConfig {
		return nil, errors.New("relay: the configuration is too long")
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	return c, c.check()
}

func (c *Config) check() error {
	if len(c.Doors) == 0 || len(c.Doors) > maxDoors || c.Conns < 1 || c.Conns > 1<<20 || len(c.Filter) > 4096 {
		return fmt.Errorf("relay: %d doors, %d connections, a filter of %d instructions", len(c.Doors), c.Conns, len(c.Filter))
	}
	for _, d := range c.Doors {
		if _, _, err := d.sockaddr(); err != nil {
			return err
		}
		if d.Mail != nil && (d.Mail.Rate.N < 0 || d.Mail.Rate.Per < 0 || d.Mail.Rate.N > 0 && !c.Meter) {
			return fmt.Errorf("relay: a rate of %v, and a meter: %v", d.Mail.Rate, c.Meter)
		}
	}
	return nil
}
