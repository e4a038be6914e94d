// What the tests do in Go: a client that waits for an answer, one that sends, one that comes and goes, and servers.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What the kernel has of a connection.
func show(c net.Conn) string {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err.Error()
	}
	var text string
	raw.Control(func(fd uintptr) {
		get := func(level, name int) int {
			value, err := syscall.GetsockoptInt(int(fd), level, name)
			if err != nil {
				return -1
			}
			return value
		}
		text = fmt.Sprintf("keepalive %d %d %d %d user_timeout %d linger2 %d", get(1, 9), get(6, 4), get(6, 5), get(6, 6), get(6, 18), get(6, 8))
	})
	return text
}

func main() {
	what, address := os.Args[1], ""
	if len(os.Args) > 3 {
		address = net.JoinHostPort(os.Args[2], os.Args[3])
	}
	switch what {
	case "wait", "upload":
		// Go's own keepalive is 15 s, nine times.
		c, err := net.Dial("tcp", address)
		request := "GET / HTTP/1.1\r\n\r\n"
		if what == "upload" {
			request = "POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n"
		}
		if err == nil {
			_, err = c.Write([]byte(request))
		}
		for err == nil && what == "upload" {
			_, err = c.Write(make([]byte, 4000))
			time.Sleep(2 * time.Millisecond)
		}
		if err == nil {
			_, err = io.ReadAll(c)
		}
		fmt.Printf("%s\t%v\n", os.Args[3], err)
	case "http":
		_, err := http.Get("http://" + address + "/")
		fmt.Printf("%s\t%v\n", os.Args[3], err)
	case "dial":
		c, err := net.Dial("tcp", address)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(show(c))
		if len(os.Args) > 4 {
			time.Sleep(time.Minute)
		}
	case "connect":
		start := time.Now()
		_, err := net.Dial("tcp", address)
		fmt.Printf("%.1f %v\n", time.Since(start).Seconds(), err)
	case "many":
		// So many connections, by so many at once: each asks, has its answer, and closes first.
		count, _ := strconv.Atoi(os.Args[4])
		at_once, _ := strconv.Atoi(os.Args[5])
		var group sync.WaitGroup
		errors := make(chan error, count)
		for i := 0; i < at_once; i++ {
			group.Add(1)
			go func() {
				defer group.Done()
				for k := 0; k < count/at_once; k++ {
					c, err := net.Dial("tcp", address)
					if err == nil {
						c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
						var answer *http.Response
						answer, err = http.ReadResponse(bufio.NewReader(c), nil)
						if err == nil {
							_, err = io.ReadAll(answer.Body)
						}
						c.Close()
					}
					if err != nil {
						errors <- err
					}
				}
			}()
		}
		group.Wait()
		fmt.Println("errors", len(errors))
		if len(errors) > 0 {
			fmt.Println(<-errors)
		}
	case "serve":
		// Echoes, and says what each connection has.
		l, err := net.Listen("tcp", address)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready", l.Addr().(*net.TCPAddr).Port)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Println(show(c))
			go func() { io.Copy(c, c); c.Close() }()
		}
	case "node":
		// Answers each request after 50 ms, keeps the connection, and says the path.
		http.HandleFunc("/", func(w http.ResponseWriter, request *http.Request) {
			time.Sleep(50 * time.Millisecond)
			io.WriteString(w, "hello\n")
			fmt.Println(request.URL.Path)
		})
		fmt.Println(http.ListenAndServe(address, nil))
	case "busy":
		// So many connections, beside goroutines that never wait.
		count, _ := strconv.Atoi(os.Args[4])
		for i := 0; i < runtime.GOMAXPROCS(0); i++ {
			go func() {
				for x := uint64(1); x != 0; x = x*6364136223846793005 + 1 {
				}
			}()
		}
		var times []time.Duration
		errors, without := 0, 0
		for i := 0; i < count; i++ {
			start := time.Now()
			c, err := net.Dial("tcp", address)
			times = append(times, time.Since(start))
			if err != nil {
				errors++
				continue
			}
			if strings.Contains(show(c), "user_timeout 0 ") {
				without++
			}
			c.Close()
		}
		sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
		ms := func(d time.Duration) int64 { return d.Milliseconds() }
		fmt.Printf("errors %d without %d median %d ms, longest %d ms\n", errors, without, ms(times[count/2]), ms(times[count-1]))
	case "parallel":
		// Children and threads at the same time.
		var group sync.WaitGroup
		var lock sync.Mutex
		for i := 0; i < 8; i++ {
			group.Add(1)
			go func() {
				defer group.Done()
				out, err := exec.Command(os.Args[0], "dial", os.Args[2], os.Args[3]).Output()
				lock.Lock()
				fmt.Println(strings.TrimSpace(string(out)), err)
				lock.Unlock()
			}()
		}
		group.Wait()
	}
}
