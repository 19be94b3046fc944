package sandbox

import (
	"path/filepath"

	"liege/sandbox/network"
	"liege/vassal/egress"
)

// NAT is a generation's way out by a network of the vassal's own (package
// network), beside which it has lo as every other.
type NAT struct {
	Addresses network.Addresses
	Policy    egress.Policy
}

// NATError is why a generation does not get its way out.
type NATError struct{ Err error }

func (e *NATError) Error() string { return "net = nat: " + e.Err.Error() }
func (e *NATError) Unwrap() error { return e.Err }

// netDir holds the vassals' network namespaces.
func (m *Manager) netDir() string { return filepath.Join(m.dir, "net") }

// line returns the vassal's line out, which it makes if it is not there. While
// another generation is connected the addresses stay what they are.
func (v *Vassal) line(a network.Addresses) (*network.Net, error) {
	v.lineMu.Lock()
	defer v.lineMu.Unlock()
	if v.net != nil {
		if own := v.net.Addresses(); own == a || v.connected > 0 {
			return v.net, nil
		}
		if err := v.closeLine(); err != nil {
			return nil, err
		}
	}
	n, err := network.Open(v.m.netDir(), v.name.Dir(), a)
	if err != nil {
		return nil, err
	}
	v.net = n
	return n, nil
}

// closeLine removes the line out, with v.lineMu held.
func (v *Vassal) closeLine() error {
	if v.net == nil {
		return nil
	}
	err := v.net.Close()
	v.net = nil
	return err
}

// hangUp takes a generation off the line; it need not be on it.
func (v *Vassal) hangUp(s *Sandbox) error {
	v.lineMu.Lock()
	defer v.lineMu.Unlock()
	if !s.nat || v.net == nil {
		return nil
	}
	s.nat = false
	v.connected--
	return v.net.Detach(s.gen)
}

// pickUp says that a generation is on the line, or will be.
func (v *Vassal) pickUp(s *Sandbox) {
	v.lineMu.Lock()
	defer v.lineMu.Unlock()
	s.nat = true
	v.connected++
}

// traffic is what the vassal's line counted.
func (v *Vassal) traffic() network.Traffic {
	v.lineMu.Lock()
	defer v.lineMu.Unlock()
	if v.net == nil {
		return network.Traffic{}
	}
	t, _ := v.net.Traffic()
	return t
}

// openLine finds or makes the line that the generation will be on.
func (st *starting) openLine() error {
	if st.spec.NAT == nil {
		return nil
	}
	n, err := st.v.line(st.spec.NAT.Addresses)
	if err != nil {
		return &NATError{err}
	}
	st.line, st.box.addresses = n, n.Addresses()
	return nil
}

// attachLine connects the generation, whose namespaces exist and wait.
func (st *starting) attachLine(pid int) error {
	if st.line == nil {
		return nil
	}
	st.v.pickUp(st.box)
	if err := st.line.Attach(st.spec.Gen, pid, st.spec.NAT.Policy); err != nil {
		return &NATError{err}
	}
	return nil
}

// adoptLine finds the line of a generation that a killed Emperor started.
func (v *Vassal) adoptLine(s *Sandbox, a network.Addresses) error {
	if !a.V4.IsValid() {
		return nil
	}
	if _, err := v.line(a); err != nil {
		return err
	}
	s.addresses = a
	v.pickUp(s)
	return nil
}
