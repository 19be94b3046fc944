package front

import (
	"strings"

	"liege/serve/exchange"
)

// settle puts the listener's own variables (http-var) in the place of whatever
// else has their names: a client cannot send them.
func (c *conn) settle(v []exchange.Var, host string) []exchange.Var {
	if c.hostName {
		v = nameByHost(v, host)
	}
	for _, set := range c.set {
		kept := v[:0]
		for _, have := range v {
			if have.Name != set.Name {
				kept = append(kept, have)
			}
		}
		v = append(kept, set)
	}
	return v
}

// nameByHost makes SERVER_NAME of the field Host, without its port.
func nameByHost(v []exchange.Var, host string) []exchange.Var {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	if host != "" {
		v = setVar(v, "SERVER_NAME", host)
	}
	return v
}
