{{ config(materialized='table') }}
{{ wait() }}
select id from {{ ref('left') }} union all select id from {{ ref('right') }}
