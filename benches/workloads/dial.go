// Connections by Go's net.Dial, from the goroutines of one process to a server that is another:
//
//	dial PORT GOROUTINES own|none    with the keepalive that Go sets by itself, or with none
//
// Asked and answered like the workloads in C (measure.h). Processor time is this process's and that of a supervisor's worker,
// where SUPERVISED says that there is one. EXPECT is the user timeout that a connection has to have.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const batch = 256

func need(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Where the worker of this process's supervisor says how long it has run: it was started next. Empty if there is none.
func worker() string {
	if os.Getenv("SUPERVISED") == "" {
		return ""
	}
	for id := os.Getpid(); id < os.Getpid()+1000; id++ {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", id))
		if string(bytes.TrimSpace(comm)) == "sockopt-work" {
			return fmt.Sprintf("/proc/%d/schedstat", id)
		}
	}
	need(fmt.Errorf("no worker"))
	return ""
}

// Nanoseconds of processor time.
func used(worker string) (sum int64) {
	const processCPU = 2
	var time syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, processCPU, uintptr(unsafe.Pointer(&time)), 0)
	if errno != 0 {
		need(errno)
	}
	if worker != "" {
		text, err := os.ReadFile(worker)
		need(err)
		nanoseconds, _ := strconv.ParseInt(string(bytes.Fields(text)[0]), 10, 64)
		sum += nanoseconds
	}
	return sum + time.Nano()
}

func dial(dialer *net.Dialer, address string, expect string) {
	connection, err := dialer.Dial("tcp", address)
	need(err)
	if expect != "" {
		raw, err := connection.(*net.TCPConn).SyscallConn()
		need(err)
		need(raw.Control(func(fd uintptr) {
			const userTimeout = 18
			value, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, userTimeout)
			need(err)
			if strconv.Itoa(value) != expect {
				need(fmt.Errorf("TCP_USER_TIMEOUT is %d", value))
			}
		}))
	}
	need(connection.Close())
}

func main() {
	if len(os.Args) != 4 {
		need(fmt.Errorf("usage"))
	}
	address := "127.0.0.1:" + os.Args[1]
	goroutines, err := strconv.Atoi(os.Args[2])
	need(err)
	dialer := &net.Dialer{}
	if os.Args[3] == "none" {
		dialer.KeepAlive = -1
	}
	dial(dialer, address, os.Getenv("EXPECT"))
	worker := worker()
	batches, err := strconv.Atoi(os.Getenv("BATCHES"))
	counted := err == nil
	for byte := make([]byte, 1); ; batches-- {
		if counted {
			if batches == 0 {
				return
			}
		} else if count, _ := os.Stdin.Read(byte); count == 0 {
			return
		}
		cpu, start := used(worker), time.Now()
		var group sync.WaitGroup
		for goroutine := 0; goroutine < goroutines; goroutine++ {
			group.Add(1)
			go func() {
				for i := 0; i < batch/goroutines; i++ {
					dial(dialer, address, "")
				}
				group.Done()
			}()
		}
		group.Wait()
		done := float64(batch / goroutines * goroutines)
		wall := float64(time.Since(start).Nanoseconds()) / done
		if !counted {
			fmt.Printf("%.1f %.1f\n", wall, float64(used(worker)-cpu)/done)
		}
	}
}
