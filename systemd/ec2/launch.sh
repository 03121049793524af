#!/usr/bin/env bash
# A store on EC2, from nothing: a VPC with a subnet in each of three zones, seven instances (or three), the package, and
# the address to buy at. docs/ec2.md tells it step by step. Everything carries the tag quire-store=<name>.
#
#   launch.sh up [7|3] PACKAGE.deb      7: an instance per daemon; 3: a catalog and an order replica on each, the front end
#                                       on the first
#   launch.sh down                      takes away all that "up" made, data included
#
# Region and credentials are those of the aws command. Settings: QUIRE_STORE (default: quire), QUIRE_INSTANCE_TYPE
# (default: m7i.large), QUIRE_IMAGE (default: the newest official Debian 12 image).
set -Eeuo pipefail
here=$(dirname "$0")

store=${QUIRE_STORE:-quire}
type=${QUIRE_INSTANCE_TYPE:-m7i.large}
debian=136693071363 # the account of Debian's official images

export AWS_PAGER="" AWS_DEFAULT_OUTPUT=text
tag="Key=quire-store,Value=$store"
tagged() { echo "ResourceType=$1,Tags=[{$tag},{Key=Name,Value=$store}]"; }
ours="Name=tag:quire-store,Values=$store"

up() {
    local instances=$1 package=$2
    case $instances in 7 | 3) ;; *) echo "launch.sh: '$instances' instances; wanted 7 or 3" >&2; exit 64 ;; esac
    [ -f "$package" ] || { echo "launch.sh: there is no package '$package'; systemd/package.sh builds one" >&2; exit 66; }
    trap 'echo "launch.sh: that failed; \"launch.sh down\" takes away what was made so far" >&2' ERR
    local sum bucket url image
    sum=$(sha256sum "$package" | cut -d' ' -f1)

    # The network: 10.77.0.0/16, a subnet in each of three zones, a way out for the front end alone.
    local vpc routes gateway region zones=() subnets=() zone
    vpc=$(aws ec2 create-vpc --cidr-block 10.77.0.0/16 --tag-specifications "$(tagged vpc)" --query Vpc.VpcId)
    gateway=$(aws ec2 create-internet-gateway --tag-specifications "$(tagged internet-gateway)" --query InternetGateway.InternetGatewayId)
    aws ec2 attach-internet-gateway --internet-gateway-id "$gateway" --vpc-id "$vpc"
    routes=$(aws ec2 create-route-table --vpc-id "$vpc" --tag-specifications "$(tagged route-table)" --query RouteTable.RouteTableId)
    aws ec2 create-route --route-table-id "$routes" --destination-cidr-block 0.0.0.0/0 --gateway-id "$gateway" >/dev/null
    read -r region "zones[0]" "zones[1]" "zones[2]" <<<"$(aws ec2 describe-availability-zones --filters Name=zone-type,Values=availability-zone \
        --query '[AvailabilityZones[0].RegionName, AvailabilityZones[0].ZoneName, AvailabilityZones[1].ZoneName, AvailabilityZones[2].ZoneName]')"
    for zone in 1 2 3; do
        subnets[zone]=$(aws ec2 create-subnet --vpc-id "$vpc" --cidr-block "10.77.$zone.0/24" --availability-zone "${zones[zone - 1]}" \
            --tag-specifications "$(tagged subnet)" --query Subnet.SubnetId)
        aws ec2 associate-route-table --route-table-id "$routes" --subnet-id "${subnets[zone]}" >/dev/null
    done
    # S3 without the internet: instances without a public address fetch the package through it.
    aws ec2 create-vpc-endpoint --vpc-id "$vpc" --service-name "com.amazonaws.$region.s3" --route-table-ids "$routes" \
        --tag-specifications "$(tagged vpc-endpoint)" >/dev/null

    # Among the instances everything, from the world the front end's port and nothing else.
    local inner front
    inner=$(aws ec2 create-security-group --group-name "$store" --description "Quire, among its daemons" --vpc-id "$vpc" \
        --tag-specifications "$(tagged security-group)" --query GroupId)
    aws ec2 authorize-security-group-ingress --group-id "$inner" --protocol tcp --port 5000-7999 --source-group "$inner" >/dev/null
    front=$(aws ec2 create-security-group --group-name "$store-front" --description "Quire, its customers" --vpc-id "$vpc" \
        --tag-specifications "$(tagged security-group)" --query GroupId)
    aws ec2 authorize-security-group-ingress --group-id "$front" --protocol tcp --port 5004 --cidr 0.0.0.0/0 >/dev/null

    # The package: in a private bucket, fetched by a link that is good for an hour.
    bucket="$store-$vpc"
    aws s3 mb "s3://$bucket" >/dev/null
    aws s3 cp --only-show-errors "$package" "s3://$bucket/quire.deb"
    # At the region's own address: the gateway endpoint leads nowhere else.
    url=$(aws s3 presign "s3://$bucket/quire.deb" --expires-in 3600 --endpoint-url "https://s3.$region.amazonaws.com")
    user_data=$(mktemp)
    trap 'rm -f "$user_data"' EXIT
    URL=$url SUM=$sum awk '{ gsub(/@PACKAGE_SHA256@/, ENVIRON["SUM"]); i = index($0, "@PACKAGE_URL@")
        if (i) $0 = substr($0, 1, i - 1) ENVIRON["URL"] substr($0, i + 13); print }' "$here/user-data.sh" >"$user_data"

    image=${QUIRE_IMAGE:-$(aws ec2 describe-images --owners $debian --filters 'Name=name,Values=debian-12-amd64-*' Name=state,Values=available \
        --query 'sort_by(Images, &CreationDate)[-1].ImageId')}
    local catalogs orders
    case $instances in
        7)
            catalogs="123=10.77.1.11 111=10.77.2.11 114=10.77.3.11"
            orders="1=10.77.1.21 2=10.77.2.21 3=10.77.3.21"
            run 1 11 catalog-123
            run 2 11 catalog-111
            run 3 11 catalog-114
            run 1 21 order-1
            run 2 21 order-2
            run 3 21 order-3
            run 1 31 frontend
            ;;
        3)
            catalogs="123=10.77.1.11 111=10.77.2.11 114=10.77.3.11"
            orders="1=10.77.1.11 2=10.77.2.11 3=10.77.3.11"
            run 1 11 "catalog-123 order-1 frontend"
            run 2 11 "catalog-111 order-2"
            run 3 11 "catalog-114 order-3"
            ;;
    esac
    aws ec2 wait instance-running --filters "$ours"
    echo "http://$(aws ec2 describe-instances --filters "$ours" Name=instance-state-name,Values=running 'Name=tag:quire-daemons,Values=*frontend*' \
        --query 'Reservations[0].Instances[0].PublicIpAddress'):5004"
}

# An instance: in this zone, with this last number of its address, for these daemons. (The variables are those of "up".)
run() {
    local groups="$inner" public=false
    case $3 in *frontend*) groups="$inner,$front" public=true ;; esac
    aws ec2 run-instances --image-id "$image" --instance-type "$type" --count 1 \
        --network-interfaces "DeviceIndex=0,SubnetId=${subnets[$1]},PrivateIpAddress=10.77.$1.$2,Groups=$groups,AssociatePublicIpAddress=$public" \
        --block-device-mappings 'DeviceName=/dev/xvda,Ebs={VolumeType=gp3,VolumeSize=20,Iops=3000,Throughput=125,Encrypted=true,DeleteOnTermination=true}' \
        --metadata-options HttpEndpoint=enabled,HttpTokens=required,HttpPutResponseHopLimit=1,InstanceMetadataTags=enabled \
        --user-data "file://$user_data" \
        --tag-specifications "ResourceType=instance,Tags=[{$tag},{Key=Name,Value=$store $3},{Key=quire-daemons,Value=$3},{Key=quire-catalogs,Value=$catalogs},{Key=quire-orders,Value=$orders}]" \
        "ResourceType=volume,Tags=[{$tag}]" --query 'Instances[0].InstanceId' >/dev/null
}

down() {
    local vpc id
    id=$(aws ec2 describe-instances --filters "$ours" Name=instance-state-name,Values=pending,running,stopping,stopped \
        --query 'Reservations[].Instances[].InstanceId')
    if [ -n "$id" ]; then
        # shellcheck disable=SC2086 # several ids
        aws ec2 terminate-instances --instance-ids $id >/dev/null
        # shellcheck disable=SC2086
        aws ec2 wait instance-terminated --instance-ids $id
    fi
    for vpc in $(aws ec2 describe-vpcs --filters "$ours" --query 'Vpcs[].VpcId'); do
        if aws s3 ls "s3://$store-$vpc" >/dev/null 2>&1; then aws s3 rb --force "s3://$store-$vpc" >/dev/null; fi
        for id in $(aws ec2 describe-vpc-endpoints --filters "$ours" --query 'VpcEndpoints[].VpcEndpointId'); do
            aws ec2 delete-vpc-endpoints --vpc-endpoint-ids "$id" >/dev/null
        done
        for id in $(aws ec2 describe-security-groups --filters "$ours" --query 'SecurityGroups[].GroupId'); do
            aws ec2 delete-security-group --group-id "$id" >/dev/null
        done
        for id in $(aws ec2 describe-subnets --filters "$ours" --query 'Subnets[].SubnetId'); do
            aws ec2 delete-subnet --subnet-id "$id"
        done
        for id in $(aws ec2 describe-route-tables --filters "$ours" --query 'RouteTables[].RouteTableId'); do
            aws ec2 delete-route-table --route-table-id "$id"
        done
        for id in $(aws ec2 describe-internet-gateways --filters "$ours" --query 'InternetGateways[].InternetGatewayId'); do
            aws ec2 detach-internet-gateway --internet-gateway-id "$id" --vpc-id "$vpc"
            aws ec2 delete-internet-gateway --internet-gateway-id "$id"
        done
        aws ec2 delete-vpc --vpc-id "$vpc"
    done
}

case "${1:-} $#" in
    "up 3") up "$2" "$3" ;;
    "up 2") up 7 "$2" ;;
    "down 1") down ;;
    *) echo "usage: launch.sh up [7|3] PACKAGE.deb | launch.sh down" >&2; exit 64 ;;
esac
