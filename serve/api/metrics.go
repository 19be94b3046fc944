package api

// metric reads or changes a metric: there is nothing else than what the
// vassal's file names, and what the core counts.
func (c *client) metric() bool {
	by, good := c.f.number(2)
	if !good || len(c.f.fields[0]) != 1 {
		return false
	}
	m, name := c.h.Metrics, c.f.text(1)
	set := true
	switch c.f.fields[0][0] {
	case 'g':
	case '=':
		set = m.Store(name, by)
	case '+':
		set = m.Add(name, by)
	case '-':
		set = m.Add(name, -by)
	case '*':
		set = m.Mul(name, by)
	case '/':
		set = m.Div(name, by)
	case '>': // set_max
		if n, found := m.Get(name); !found || n < by {
			set = m.Store(name, by)
		}
	case '<':
		if n, found := m.Get(name); !found || n > by {
			set = m.Store(name, by)
		}
	default:
		return false
	}
	n, found := m.Get(name)
	if !set || !found {
		return c.say(false)
	}
	c.a.number(n)
	return true
}
