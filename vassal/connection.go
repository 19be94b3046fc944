package vassal

import "strings"

// Connection is one address outside that a vassal may connect to (CONTRACT 5):
// of a connect line, or an upstream that a routing rule names.
type Connection struct {
	Address string // canonical: 127.0.0.1:5432, [::1]:25, unix:/run/mysqld/mysqld.sock
	Key     string // the option
	At      Origin
	Tenant  bool // of a line that is not root's: within [ceilings] connect
}

// Path is the path of a unix socket; empty for a TCP address.
func (c Connection) Path() string {
	p, _ := strings.CutPrefix(c.Address, "unix:")
	if p == c.Address {
		return ""
	}
	return p
}

// MaxConnections bounds the addresses of one vassal: each is a descriptor of
// the Emperor's.
const MaxConnections = 64
